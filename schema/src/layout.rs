//! Bit-packed records, described once: [`bit_layout!`](crate::bit_layout) makes of one list of fields the straight code that packs
//! and reads a record in Rust, and a [`Layout`], the same list as data, of which `cargo xtask codecs` makes that code in other
//! languages.

use crate::bits::{BitReader, BitWriter, Packed, fits};
use crate::codec::DecodeError;

/// A bit-packed record, its fields in the order of their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The Rust type's.
    pub name: &'static str,
    /// In order.
    pub fields: &'static [Field],
}

/// One field of a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As in Rust.
    pub name: &'static str,
    /// How it is packed.
    pub packing: Packing,
}

/// How a field is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// So many bits.
    Unsigned(u32),
    /// So many bits of two's complement.
    Signed(u32),
    /// Another record.
    Record(&'static Layout),
    /// One bit, and if it has the value `present` the field itself; else there is none.
    Maybe {
        /// What the bit is when the field follows.
        present: bool,
        /// How it is packed then.
        of: &'static Packing,
    },
    /// Two's complement in as many bits as the record's class says; with none the value is 0. The class itself stands before the
    /// first such field, in as many bits as it takes to tell all classes.
    Classed(&'static [u32]),
}

/// What bits are appended to.
pub trait BitSink {
    /// The lowest `bits` bits of `value`; the others must be zero.
    fn unsigned(&mut self, value: u32, bits: u32);
    /// `bits` bits of two's complement.
    fn signed(&mut self, value: i32, bits: u32);
}

impl BitSink for BitWriter {
    #[inline]
    fn unsigned(&mut self, value: u32, bits: u32) {
        self.write(value, bits);
    }

    #[inline]
    fn signed(&mut self, value: i32, bits: u32) {
        BitWriter::signed(self, value, bits);
    }
}

impl BitSink for Packed {
    #[inline]
    fn unsigned(&mut self, value: u32, bits: u32) {
        self.write(value, bits);
    }

    #[inline]
    fn signed(&mut self, value: i32, bits: u32) {
        Packed::signed(self, value, bits);
    }
}

/// Bits of a class that says how large `classes` differences are.
pub const fn class_bits(classes: &[u32]) -> u32 {
    classes.len().next_power_of_two().ilog2()
}

/// Appends the first class that all `values` fit, and them; `None` when there is none.
#[inline]
pub(crate) fn write_classed(sink: &mut impl BitSink, classes: &[u32], values: &[i32]) -> Option<()> {
    let class = classes.iter().position(|bits| match bits {
        0 => values.iter().all(|value| *value == 0),
        bits => values.iter().all(|value| fits(*value, *bits)),
    })?;
    sink.unsigned(class as u32, class_bits(classes));
    if classes[class] > 0 {
        values.iter().for_each(|value| sink.signed(*value, classes[class]));
    }
    Some(())
}

/// Reads what [`write_classed`] wrote.
#[inline]
pub(crate) fn read_classed<const COUNT: usize>(
    reader: &mut BitReader<'_>,
    classes: &[u32],
) -> Result<[i32; COUNT], DecodeError> {
    let class = reader.read(class_bits(classes))?;
    let bits = *classes.get(class as usize).ok_or(DecodeError::Invalid("class"))?;
    let mut values = [0; COUNT];
    if bits > 0 {
        for value in &mut values {
            *value = reader.signed(bits)?;
        }
    }
    Ok(values)
}

/// `bit_layout! { Name { field: unsigned 16, other: signed 20, third: when unsigned 8, fourth: unless signed 20, own: when record Other } }`
/// gives the struct `Name` a `LAYOUT`, `write_bits` and `read_bits`. `when` and `unless` are for options: one bit, and the field behind it
/// when the bit is one, or zero. With `by CLASSES: a, b;` before the other fields, a and b are written in one of these widths, and
/// `write_bits` gives `None` when none is wide enough.
#[macro_export]
macro_rules! bit_layout {
    ($name:ident { by $classes:ident: $($classed:ident),+; $($field:ident: $($packing:ident)+ $($bits:literal)?),+ $(,)? }) => {
        impl $name {
            /// How it is packed.
            pub const LAYOUT: $crate::layout::Layout = $crate::layout::Layout {
                name: stringify!($name),
                fields: &[
                    $($crate::layout::Field {
                        name: stringify!($classed),
                        packing: $crate::layout::Packing::Classed(&$classes),
                    },)+
                    $($crate::layout::Field {
                        name: stringify!($field),
                        packing: $crate::bit_layout!(@packing $($packing)+ $($bits)?),
                    }),+
                ],
            };

            #[inline]
            fn write_bits(&self, sink: &mut impl $crate::layout::BitSink) -> Option<()> {
                $crate::layout::write_classed(sink, &$classes, &[$(self.$classed),+])?;
                $($crate::bit_layout!(@write sink, self.$field, $($packing)+ $($bits)?);)+
                Some(())
            }

            #[inline]
            fn read_bits(reader: &mut $crate::bits::BitReader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                let [$($classed),+] = $crate::layout::read_classed(reader, &$classes)?;
                Ok($name { $($classed,)+ $($field: $crate::bit_layout!(@read reader, $($packing)+ $($bits)?)),+ })
            }
        }
    };
    ($name:ident { $($field:ident: $($packing:ident)+ $($bits:literal)?),+ $(,)? }) => {
        impl $name {
            /// How it is packed.
            pub const LAYOUT: $crate::layout::Layout = $crate::layout::Layout {
                name: stringify!($name),
                fields: &[
                    $($crate::layout::Field {
                        name: stringify!($field),
                        packing: $crate::bit_layout!(@packing $($packing)+ $($bits)?),
                    }),+
                ],
            };

            #[inline]
            fn write_bits(&self, sink: &mut impl $crate::layout::BitSink) {
                $($crate::bit_layout!(@write sink, self.$field, $($packing)+ $($bits)?);)+
            }

            #[inline]
            fn read_bits(reader: &mut $crate::bits::BitReader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                Ok($name { $($field: $crate::bit_layout!(@read reader, $($packing)+ $($bits)?)),+ })
            }
        }
    };

    (@packing unsigned $bits:literal) => { $crate::layout::Packing::Unsigned($bits) };
    (@packing signed $bits:literal) => { $crate::layout::Packing::Signed($bits) };
    (@packing record $record:ident) => { $crate::layout::Packing::Record(&$record::LAYOUT) };
    (@packing when $($rest:tt)+) => {
        $crate::layout::Packing::Maybe { present: true, of: &$crate::bit_layout!(@packing $($rest)+) }
    };
    (@packing unless $($rest:tt)+) => {
        $crate::layout::Packing::Maybe { present: false, of: &$crate::bit_layout!(@packing $($rest)+) }
    };

    (@write $sink:ident, $value:expr, unsigned $bits:literal) => { $sink.unsigned(u32::from($value), $bits) };
    (@write $sink:ident, $value:expr, signed $bits:literal) => { $sink.signed($value, $bits) };
    (@write $sink:ident, $value:expr, record $record:ident) => { $value.write_bits($sink) };
    (@write $sink:ident, $value:expr, when $($rest:tt)+) => {
        $sink.unsigned(u32::from($value.is_some()), 1);
        if let Some(value) = $value {
            $crate::bit_layout!(@write $sink, value, $($rest)+);
        }
    };
    (@write $sink:ident, $value:expr, unless $($rest:tt)+) => {
        $sink.unsigned(u32::from($value.is_none()), 1);
        if let Some(value) = $value {
            $crate::bit_layout!(@write $sink, value, $($rest)+);
        }
    };

    (@read $reader:ident, unsigned $bits:literal) => { $reader.read($bits)? as _ };
    (@read $reader:ident, signed $bits:literal) => { $reader.signed($bits)? };
    (@read $reader:ident, record $record:ident) => { $record::read_bits($reader)? };
    (@read $reader:ident, when $($rest:tt)+) => {
        if $reader.flag()? { Some($crate::bit_layout!(@read $reader, $($rest)+)) } else { None }
    };
    (@read $reader:ident, unless $($rest:tt)+) => {
        if $reader.flag()? { None } else { Some($crate::bit_layout!(@read $reader, $($rest)+)) }
    };
}
