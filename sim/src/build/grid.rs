//! The building grid: cells, and the places of a cell that a piece can fill.

use vsekai_schema::content::Slot;
use vsekai_schema::units::{ChunkKey, Position};

/// How far apart two pieces may be, in cells, that one rule looks at together: a wall carries the floors beside it, each of
/// which may also rest on its cell's other walls.
pub const NEIGHBOUR_CELLS: i32 = 2;

/// A column and row of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Eastwards.
    pub column: i32,
    /// Southwards.
    pub row: i32,
}

impl Cell {
    /// The middle of the cell in millimetres, or `None` when it lies outside of what numbers can say.
    pub fn centre(self, grid_mm: i32) -> Option<(i32, i32)> {
        let middle = |v: i32| v.checked_mul(grid_mm)?.checked_add(grid_mm / 2);
        Some((middle(self.column)?, middle(self.row)?))
    }

    /// The four corners in millimetres. The cell must have a [`Cell::centre`].
    pub fn corners(self, grid_mm: i32) -> [(i32, i32); 4] {
        let (x, z) = (self.column * grid_mm, self.row * grid_mm);
        [(x, z), (x + grid_mm, z), (x, z + grid_mm), (x + grid_mm, z + grid_mm)]
    }

    /// The chunks that hold this cell or one up to [`NEIGHBOUR_CELLS`] away, each once. The cell must have a [`Cell::centre`].
    pub fn chunks_around(self, grid_mm: i32) -> Vec<ChunkKey> {
        let mut keys = Vec::with_capacity(4);
        // A grid cell is at most a quarter of a chunk, so the corners of the square are in all the chunks it touches.
        for (dc, dr) in [(-1, -1), (1, -1), (-1, 1), (1, 1)].map(|(c, r)| (c * NEIGHBOUR_CELLS, r * NEIGHBOUR_CELLS)) {
            let beside = Cell { column: self.column.saturating_add(dc), row: self.row.saturating_add(dr) };
            let Some((x, z)) = beside.centre(grid_mm) else { continue };
            let key = Position::new(x, 0, z).chunk();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// One place of the grid, in a form in which equal places are equal: an edge shared by two cells belongs to the cell south
/// or east of it, as that cell's north or west edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    column: i32,
    row: i32,
    /// Storey.
    pub level: u8,
    slot: Slot,
    /// For edges: 0 north, 3 west. Otherwise 0.
    side: u8,
}

impl Place {
    /// The place that a piece of `slot` with `turn` (0–3) fills in `cell`.
    pub fn new(cell: Cell, level: u8, slot: Slot, turn: u8) -> Self {
        let (column, row, side) = match (slot, turn) {
            (Slot::Edge, 1) => (cell.column.saturating_add(1), cell.row, 3),
            (Slot::Edge, 2) => (cell.column, cell.row.saturating_add(1), 0),
            (Slot::Edge, turn) => (cell.column, cell.row, turn),
            _ => (cell.column, cell.row, 0),
        };
        Place { column, row, level, slot, side }
    }

    /// True for the floor of `cell`.
    pub fn is_floor_of(&self, cell: Cell, level: u8) -> bool {
        *self == Place::new(cell, level, Slot::Floor, 0)
    }

    /// True for any of the four edges of `cell`.
    pub fn is_edge_of(&self, cell: Cell, level: u8) -> bool {
        (0..4).any(|turn| *self == Place::new(cell, level, Slot::Edge, turn))
    }

    /// True when `floor` is the floor of a cell that this place is in or borders on.
    pub fn can_stand_on_floor(&self, floor: &Place) -> bool {
        self.cells().into_iter().any(|cell| floor.is_floor_of(cell, self.level))
    }

    /// True when `wall` is an edge of this place's cell, one storey below.
    pub fn can_stand_on_wall(&self, wall: &Place) -> bool {
        self.level
            .checked_sub(1)
            .is_some_and(|below| wall.is_edge_of(Cell { column: self.column, row: self.row }, below))
    }

    /// The cell of this place; for an edge both cells that it divides.
    fn cells(&self) -> [Cell; 2] {
        let own = Cell { column: self.column, row: self.row };
        let other = match (self.slot, self.side) {
            (Slot::Edge, 0) => Cell { row: self.row.saturating_sub(1), ..own },
            (Slot::Edge, _) => Cell { column: self.column.saturating_sub(1), ..own },
            _ => own,
        };
        [own, other]
    }
}
