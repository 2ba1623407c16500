//! Declared once: a component that is kept, hashed, replicated or shown by tools says so here, in its feature's plugin, and
//! journal, chunks, hash, replication and dumps follow.
//!
//! ```
//! use bevy_app::App;
//! use bevy_ecs::prelude::Component;
//! use serde::{Deserialize, Serialize};
//! use vsekai_sim::registry::{AppDeclare, Declared, Seen};
//!
//! #[derive(Component, Debug, Serialize, Deserialize)]
//! #[component(immutable)]
//! struct Warmth { decidegrees: i16 }
//!
//! impl Declared for Warmth {
//!     const TAG: u16 = 900;
//!     const NAME: &'static str = "warmth";
//!     const SEEN: Seen = Seen::Nearby;
//! }
//!
//! fn plugin(app: &mut App) {
//!     app.declare::<Warmth>();
//! }
//! ```
//!
//! How changes are found follows from the component's mutability. An **immutable** component (`#[component(immutable)]`,
//! changed by inserting it anew) reports each change through a hook: it costs nothing while nothing happens, which is
//! right for what lies about in millions. A **mutable** one is found by bevy's change ticks: a short scan per tick over the
//! entities that have it, right for what moves all the time. Both are exact; choosing wrongly costs time, never data.

use crate::record::{Dirty, Identity};
use crate::space::Pose;
use bevy_app::App;
use bevy_ecs::component::{Component, ComponentMutability};
use bevy_ecs::lifecycle::HookContext;
use bevy_ecs::prelude::*;
use bevy_ecs::schedule::ScheduleLabel;
use bevy_ecs::world::{DeferredWorld, EntityRef, EntityWorldMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use vsekai_schema::codec::{DecodeError, from_bytes, write_postcard};
use vsekai_schema::id::Tag;

/// Most declared components: one bit each in a change mask.
pub const DECLARED_MAX: usize = 64;

/// Who is told about a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nobody: the component is the server's own.
    Never,
    /// The player whose entity it is, reliably.
    Owner,
    /// Everybody near, reliably: for what changes now and then.
    Nearby,
    /// Everybody near, by motion packets: for the pose of what moves, which has a quantised form of its own there. Only
    /// the newest value counts.
    Fast,
}

/// What a component means outside its feature. The disk record is the version byte and the component's postcard form.
pub trait Declared: Component + Debug + Serialize + DeserializeOwned {
    /// Its number on disk and on the wire. Below 1,000 for this game; never given to another component.
    const TAG: u16;
    /// Its name in dumps and errors.
    const NAME: &'static str;
    /// Version of its disk record; raised when the form changes, together with [`Declared::migrate`].
    const VERSION: u8 = 1;
    /// Whether it is journalled, stored in chunks and part of the state hash.
    const KEPT: bool = true;
    /// Who is told.
    const SEEN: Seen = Seen::Never;

    /// Reads a record of an older version.
    ///
    /// # Errors
    /// By default every other version is refused by name.
    fn migrate(version: u8, _body: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::UnknownVersion {
            what: Self::NAME.into(),
            found: version.into(),
            newest: Self::VERSION.into(),
        })
    }

    /// Appends the form that clients get; by default the component's postcard form, which is exact.
    fn write_wire(&self, out: &mut Vec<u8>) {
        write_postcard(out, self);
    }

    /// Reads what [`Declared::write_wire`] wrote.
    ///
    /// # Errors
    /// When the bytes are not of this component.
    fn read_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        from_bytes(bytes)
    }

    /// Runs when the component was inserted: the place to keep an index or a timer that follows from it.
    fn inserted(&self, _entity: Entity, _world: &IndexWorld<'_>) {}

    /// Runs before the component is removed or replaced.
    fn discarded(&self, _entity: Entity, _world: &IndexWorld<'_>) {}
}

/// What [`Declared::inserted`] and [`Declared::discarded`] may touch: it queues index changes that are applied at once
/// after the hook.
#[derive(Default)]
pub struct IndexWorld<'a> {
    jobs: std::cell::RefCell<Vec<IndexJob<'a>>>,
}

type IndexJob<'a> = Box<dyn FnOnce(&mut DeferredWorld<'_>) + 'a>;

impl<'a> IndexWorld<'a> {
    /// Runs `job` once the hook may write.
    pub fn update<R: Resource<Mutability = bevy_ecs::component::Mutable>>(&self, job: impl FnOnce(&mut R) + 'a) {
        self.jobs.borrow_mut().push(Box::new(move |world| {
            if let Some(mut resource) = world.get_resource_mut::<R>() {
                job(&mut resource);
            }
        }));
    }
}

/// One declared component, with its type erased.
pub struct Entry {
    /// Number on disk and wire.
    pub tag: Tag,
    /// Name in dumps.
    pub name: &'static str,
    /// Journalled, stored, hashed.
    pub kept: bool,
    /// Who is told.
    pub seen: Seen,
    /// Found by change ticks rather than by hooks.
    pub mutable: bool,
    write_record: fn(EntityRef<'_>, &mut Vec<u8>) -> bool,
    write_wire: fn(EntityRef<'_>, &mut Vec<u8>) -> bool,
    insert_record: fn(&mut EntityWorldMut<'_>, &[u8]) -> Result<(), DecodeError>,
    describe: fn(EntityRef<'_>) -> Option<String>,
}

impl Entry {
    /// Appends the disk record; false when the entity has no such component.
    pub fn write_record(&self, entity: EntityRef<'_>, out: &mut Vec<u8>) -> bool {
        (self.write_record)(entity, out)
    }

    /// Appends the wire form; false when the entity has no such component.
    pub fn write_wire(&self, entity: EntityRef<'_>, out: &mut Vec<u8>) -> bool {
        (self.write_wire)(entity, out)
    }

    /// Inserts the component that `record` describes.
    ///
    /// # Errors
    /// When the record is damaged or of an unknown version.
    pub fn insert_record(&self, entity: &mut EntityWorldMut<'_>, record: &[u8]) -> Result<(), DecodeError> {
        (self.insert_record)(entity, record)
    }

    /// One readable line; `None` when the entity has no such component.
    pub fn describe(&self, entity: EntityRef<'_>) -> Option<String> {
        (self.describe)(entity)
    }
}

/// All declared components, in rising order of tag.
#[derive(Resource, Default)]
pub struct Registry {
    entries: Vec<Entry>,
    /// Position by tag, for tags below the largest.
    by_tag: Vec<u8>,
}

const NO_ENTRY: u8 = u8::MAX;

impl Registry {
    /// All entries; the position is the component's bit in change masks.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of `tag` and its position.
    pub fn entry(&self, tag: Tag) -> Option<(usize, &Entry)> {
        let position = *self.by_tag.get(usize::from(tag.0)).filter(|p| **p != NO_ENTRY)?;
        Some((usize::from(position), &self.entries[usize::from(position)]))
    }

    fn add(&mut self, entry: Entry) {
        assert!(
            entry.seen != Seen::Fast || entry.tag.0 == Pose::TAG,
            "`{}`: only the pose goes by motion packets",
            entry.name
        );
        assert!(self.entries.len() < DECLARED_MAX, "more than {DECLARED_MAX} components are declared");
        if let Some(other) = self.entries.iter().find(|other| other.tag == entry.tag || other.name == entry.name) {
            panic!("`{}` ({}) and `{}` ({}) share a tag or name", other.name, other.tag.0, entry.name, entry.tag.0);
        }
        let at = self.entries.partition_point(|other| other.tag < entry.tag);
        self.entries.insert(at, entry);
        let size = self.entries.last().map_or(0, |last| usize::from(last.tag.0) + 1);
        self.by_tag = vec![NO_ENTRY; size];
        for (position, entry) in self.entries.iter().enumerate() {
            self.by_tag[usize::from(entry.tag.0)] = position as u8;
        }
    }
}

/// Adds [`AppDeclare::declare`] to the app.
pub trait AppDeclare {
    /// Declares `T`. Twice the same tag or name is a programming error and panics at start.
    fn declare<T: Declared>(&mut self) -> &mut Self;
}

impl AppDeclare for App {
    fn declare<T: Declared>(&mut self) -> &mut Self {
        let mutable = <T::Mutability as ComponentMutability>::MUTABLE;
        let world = self.world_mut();
        world.init_resource::<Registry>();
        world.init_resource::<Dirty>();
        world
            .register_component_hooks::<T>()
            .on_insert(hook_inserted::<T>)
            .on_discard(hook_discarded::<T>)
            .on_remove(hook_removed::<T>);
        world.resource_mut::<Registry>().add(Entry {
            tag: Tag(T::TAG),
            name: T::NAME,
            kept: T::KEPT,
            seen: T::SEEN,
            mutable,
            write_record: write_record::<T>,
            write_wire: write_wire::<T>,
            insert_record: insert_record::<T>,
            describe: |entity| Some(format!("{:?}", entity.get::<T>()?)),
        });
        if mutable {
            self.add_systems(Gather, gather_changed::<T>);
        }
        self
    }
}

/// The systems that find changed mutable components; run at the beginning of `TickSet::Record`, and once when a world was
/// loaded. They only append marks, which are sorted before use, so their order does not matter.
#[derive(ScheduleLabel, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gather;

fn run_index<T: Declared>(
    mut world: DeferredWorld<'_>,
    entity: Entity,
    index: impl FnOnce(&T, Entity, &IndexWorld<'_>),
) {
    let jobs = IndexWorld::default();
    if let Some(component) = world.get::<T>(entity) {
        index(component, entity, &jobs);
    }
    for job in jobs.jobs.into_inner() {
        job(&mut world);
    }
}

fn hook_inserted<T: Declared>(mut world: DeferredWorld<'_>, context: HookContext) {
    if let Some(mut dirty) = world.get_resource_mut::<Dirty>() {
        dirty.mark(context.entity, T::TAG);
    }
    run_index::<T>(world, context.entity, T::inserted);
}

fn hook_discarded<T: Declared>(world: DeferredWorld<'_>, context: HookContext) {
    run_index::<T>(world, context.entity, T::discarded);
}

fn hook_removed<T: Declared>(mut world: DeferredWorld<'_>, context: HookContext) {
    if let Some(mut dirty) = world.get_resource_mut::<Dirty>() {
        dirty.mark(context.entity, T::TAG);
    }
}

fn gather_changed<T: Declared>(
    changed: Query<'_, '_, Entity, (Changed<T>, With<Identity>)>,
    mut dirty: ResMut<'_, Dirty>,
) {
    for entity in &changed {
        dirty.mark(entity, T::TAG);
    }
}

fn write_record<T: Declared>(entity: EntityRef<'_>, out: &mut Vec<u8>) -> bool {
    let Some(component) = entity.get::<T>() else { return false };
    out.push(T::VERSION);
    write_postcard(out, component);
    true
}

fn write_wire<T: Declared>(entity: EntityRef<'_>, out: &mut Vec<u8>) -> bool {
    let Some(component) = entity.get::<T>() else { return false };
    component.write_wire(out);
    true
}

fn insert_record<T: Declared>(entity: &mut EntityWorldMut<'_>, record: &[u8]) -> Result<(), DecodeError> {
    let (version, body) = record.split_first().ok_or(DecodeError::Truncated { needed: 1 })?;
    let component = if *version == T::VERSION { from_bytes::<T>(body)? } else { T::migrate(*version, body)? };
    entity.insert(component);
    Ok(())
}

#[cfg(test)]
mod tests;
