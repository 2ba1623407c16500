//! What the wire is made of, in no language's words: numbers, texts, postcard's types and bit-packed records. Everything comes from
//! the Rust types: postcard's by tracing serde, the rest from `schema::wire::described`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_reflection::{ContainerFormat, Format, Named, Samples, Tracer, TracerConfig, VariantFormat};
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use vsekai_schema::layout::Layout;
use vsekai_schema::wire::described::{Described, LAYOUTS, numbers};
use vsekai_schema::wire::motion::Acks;
use vsekai_schema::wire::steps::StepsFeedback;
use vsekai_schema::wire::view::{Pong, ViewOperation};
use vsekai_schema::wire::{ClientDatagram, ClientMessage, Command, Outcome, Refusal, Rejection, ServerMessage};
use vsekai_sim::build::Structure;
use vsekai_sim::inventory::Inventory;
use vsekai_sim::player::{Player, PlayerSeen};
use vsekai_sim::registry::Declared;
use vsekai_sim::resource::ResourceNode;
use vsekai_sim::space::{Placement, Pose};

/// Everything that a backend needs.
#[derive(Debug)]
pub struct Model {
    /// Constants.
    pub numbers: Vec<Described>,
    /// What is said to players, by enum.
    pub texts: Vec<Texts>,
    /// Postcard's types, by name.
    pub types: BTreeMap<String, Type>,
    /// Types that a client reads: those that are a whole message and those that stand in one.
    pub read: Vec<Root>,
    /// Types that a client writes.
    pub written: Vec<Root>,
    /// What a view tells of an entity.
    pub components: Vec<Component>,
    /// Bit-packed records.
    pub layouts: &'static [Layout],
}

/// A type that is read or written by itself.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its name in [`Model::types`].
    pub name: String,
    /// Whether it is a message, which nothing may follow.
    pub whole: bool,
}

/// The texts of an enum, in the order of its numbers.
#[derive(Debug)]
pub struct Texts {
    /// The enum.
    pub name: &'static str,
    /// Variants' names with their texts.
    pub entries: Vec<(String, String)>,
}

/// A component on the wire.
#[derive(Debug)]
pub struct Component {
    /// Its number.
    pub tag: u16,
    /// Its name in dumps.
    pub name: &'static str,
    /// Its type.
    pub shape: Shape,
}

/// A type with a name.
#[derive(Debug)]
pub enum Type {
    /// A struct.
    Record(Vec<Field>),
    /// An enum of names alone.
    Names(Vec<String>),
    /// An enum; the place is the number on the wire.
    Choice(Vec<Variant>),
}

/// A field of a struct or of an enum's variant.
#[derive(Debug)]
pub struct Field {
    /// As in Rust.
    pub name: String,
    /// Of what form.
    pub shape: Shape,
}

/// A variant of an enum.
#[derive(Debug)]
pub struct Variant {
    /// As in Rust.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// What a variant holds.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// One value without a name.
    Value(Shape),
    /// Fields.
    Fields(Vec<Field>),
}

/// The form of a value in postcard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A byte, 0 or 1.
    Bool,
    /// So many bits: with 8 a byte, else a varint.
    Unsigned(u32),
    /// So many bits: with 8 a byte, else a zigzag varint.
    Signed(u32),
    /// A length and UTF-8.
    Text,
    /// A length and bytes.
    Bytes,
    /// So many bytes.
    FixedBytes(usize),
    /// A byte, and with 1 the value.
    Option(Box<Shape>),
    /// A length and items.
    List(Box<Shape>),
    /// One after the other.
    Tuple(Vec<Shape>),
    /// A type of [`Model::types`].
    Named(String),
}

/// What clients and shards say to each other.
///
/// # Errors
/// When a type has a form that nothing on the wire had so far.
pub fn of_the_wire() -> Result<Model> {
    let mut traced = Traced::new();
    // Those within others first: of an enum inside an enum all variants are seen only by itself.
    traced.add::<Rejection>()?;
    traced.add::<Refusal>()?;
    traced.add::<Outcome>()?;
    traced.add::<Command>()?;
    let read = vec![
        Root { name: traced.add::<ServerMessage>()?, whole: true },
        Root { name: traced.add::<Pong>()?, whole: false },
        Root { name: traced.add::<StepsFeedback>()?, whole: false },
        Root { name: traced.add_borrowing::<ViewOperation<'static>>()?, whole: false },
    ];
    let written = vec![
        Root { name: traced.add::<ClientMessage>()?, whole: true },
        Root { name: traced.add::<ClientDatagram>()?, whole: true },
        Root { name: traced.add::<Acks>()?, whole: false },
    ];
    let components = vec![
        traced.component::<Placement, Placement>()?,
        traced.component::<Pose, Pose>()?,
        traced.component::<ResourceNode, ResourceNode>()?,
        traced.component::<Structure, Structure>()?,
        traced.component::<Player, PlayerSeen<'static>>()?,
        traced.component::<Inventory, Inventory>()?,
    ];
    let types = traced.types()?;
    let texts = vec![texts("Rejection", Rejection::ALL), texts("Refusal", Refusal::ALL)];
    for Texts { name, entries } in &texts {
        let Some(Type::Names(names)) = types.get(*name) else { bail!("{name} is no enum of names") };
        ensure!(entries.iter().map(|(name, _)| name).eq(names), "{name}::ALL has another order than the enum");
    }
    Ok(Model { numbers: numbers(), texts, types, read, written, components, layouts: LAYOUTS })
}

fn texts<Reason: Debug + Display>(name: &'static str, all: &[Reason]) -> Texts {
    Texts { name, entries: all.iter().map(|reason| (format!("{reason:?}"), reason.to_string())).collect() }
}

/// The types that were traced so far.
struct Traced {
    tracer: Tracer,
    samples: &'static Samples,
}

impl Traced {
    fn new() -> Self {
        // Nothing is sampled: the types of the wire accept any value. Leaked, for borrowing types to borrow from: it is empty.
        Traced { tracer: Tracer::new(TracerConfig::default()), samples: Box::leak(Box::new(Samples::new())) }
    }

    /// Traces a type with a name, and gives the name.
    fn add<T: for<'de> Deserialize<'de>>(&mut self) -> Result<String> {
        self.add_borrowing::<T>()
    }

    fn add_borrowing<T: Deserialize<'static>>(&mut self) -> Result<String> {
        match self.format::<T>()? {
            Shape::Named(name) => Ok(name),
            other => bail!("{} is {other:?}, without a name", std::any::type_name::<T>()),
        }
    }

    fn format<T: Deserialize<'static>>(&mut self) -> Result<Shape> {
        let traced = self.tracer.trace_type::<T>(self.samples);
        let (format, _) = traced.map_err(|error| anyhow!("{}: {error}", std::any::type_name::<T>()))?;
        shape(&format)
    }

    /// A component `T` that clients get as a `Wire`.
    fn component<T: Declared, Wire: Deserialize<'static>>(&mut self) -> Result<Component> {
        Ok(Component { tag: T::TAG, name: T::NAME, shape: self.format::<Wire>()? })
    }

    fn types(self) -> Result<BTreeMap<String, Type>> {
        let registry = self.tracer.registry().map_err(|error| anyhow!("{error}"))?;
        registry.iter().map(|(name, format)| Ok((name.to_string(), named(format).context(name.to_string())?))).collect()
    }
}

fn named(format: &ContainerFormat) -> Result<Type> {
    Ok(match format {
        ContainerFormat::Struct(fields) => Type::Record(record(fields)?),
        ContainerFormat::Enum(variants) => {
            // Postcard has the numbers as they are counted here: from zero, without gaps.
            ensure!(variants.keys().copied().eq(0..variants.len() as u32), "variants were left out");
            let variants: Vec<_> = variants.values().map(variant).collect::<Result<_>>()?;
            if variants.iter().all(|variant| matches!(variant.content, Content::Nothing)) {
                Type::Names(variants.into_iter().map(|variant| variant.name).collect())
            } else {
                Type::Choice(variants)
            }
        }
        other => bail!("{other:?}: neither a struct with fields nor an enum"),
    })
}

fn record(fields: &[Named<Format>]) -> Result<Vec<Field>> {
    fields.iter().map(|field| Ok(Field { name: field.name.clone(), shape: shape(&field.value)? })).collect()
}

fn variant(variant: &Named<VariantFormat>) -> Result<Variant> {
    let content = match &variant.value {
        VariantFormat::Unit => Content::Nothing,
        VariantFormat::NewType(format) => Content::Value(shape(format)?),
        VariantFormat::Struct(fields) => Content::Fields(record(fields)?),
        other => bail!("{}: {other:?}", variant.name),
    };
    Ok(Variant { name: variant.name.clone(), content })
}

fn shape(format: &Format) -> Result<Shape> {
    Ok(match format {
        Format::TypeName(name) => Shape::Named(name.to_string()),
        Format::Bool => Shape::Bool,
        Format::U8 => Shape::Unsigned(8),
        Format::U16 => Shape::Unsigned(16),
        Format::U32 => Shape::Unsigned(32),
        Format::U64 => Shape::Unsigned(64),
        Format::I8 => Shape::Signed(8),
        Format::I16 => Shape::Signed(16),
        Format::I32 => Shape::Signed(32),
        Format::Str => Shape::Text,
        Format::Bytes => Shape::Bytes,
        Format::Option(inner) => Shape::Option(Box::new(shape(inner)?)),
        // To postcard a list of bytes is bytes.
        Format::Seq(inner) if **inner == Format::U8 => Shape::Bytes,
        Format::Seq(inner) => Shape::List(Box::new(shape(inner)?)),
        Format::TupleArray { content, size } if **content == Format::U8 => Shape::FixedBytes(*size),
        Format::Tuple(parts) if parts.len() > 4 && parts.iter().all(|part| *part == Format::U8) => {
            Shape::FixedBytes(parts.len())
        }
        Format::Tuple(parts) => Shape::Tuple(parts.iter().map(shape).collect::<Result<_>>()?),
        other => bail!("{other:?}: no form that the wire had so far"),
    })
}
