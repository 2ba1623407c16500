//! JavaScript: one straight function for each type, over the cursors of `net/web/codec.js`.
//!
//! Enums are objects told apart by `kind`, the variant's name in snake case, with its fields beside it, or its one nameless value as
//! `value`; enums of names alone are these names. Fields are in camel case, options without a value null. Integers are numbers; those of
//! 64 bits are refused when a number cannot hold them, but for those in [`WIDE`].

use super::model::{Content, Field, Model, Shape, Type, Variant};
use anyhow::{Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write;
use vsekai_schema::layout::{Layout, Packing, class_bits};
use vsekai_schema::wire::described::Value;

/// Fields of 64 bits whose values may be any: they are BigInts.
const WIDE: &[&str] = &["ServerMessage.Welcome.seed"];

/// The file.
pub fn emit(model: &Model) -> Result<String> {
    let mut out = String::from(
        "// Made by `cargo xtask codecs` from the Rust types of the wire (`schema/src/wire/`, components in `sim/src/`). Not to be\n\
         // edited: a test compares it with what the types say now.\n\n\
         import { Reader, Writer } from './codec.js';\n\n",
    );
    numbers(&mut out, model)?;
    let mut scribe = Scribe { model, used: BTreeSet::new() };
    let read = scribe.reachable(model.read.iter().map(|root| &root.name), &model.components);
    let written = scribe.reachable(model.written.iter().map(|root| &root.name), &[]);
    for (name, kind) in &model.types {
        if let Type::Names(names) = kind
            && (read.contains(name) || written.contains(name))
        {
            let list: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
            writeln!(out, "const {} = [\n{}];\n", names_of(name), wrapped(&list))?;
        }
    }
    let exported = |roots: &[super::model::Root], name: &str| roots.iter().any(|root| !root.whole && root.name == name);
    for name in &read {
        let body = scribe.reader(name)?;
        let export = if exported(&model.read, name) { "export " } else { "" };
        writeln!(out, "{export}function read{name}(r) {{\n{body}}}\n")?;
    }
    for root in model.read.iter().filter(|root| root.whole) {
        let name = &root.name;
        writeln!(out, "/** A whole message `{name}`. */\nexport function decode{name}(bytes) {{")?;
        writeln!(out, "  const r = new Reader(bytes);\n  return r.finish(read{name}(r));\n}}\n")?;
    }
    components(&mut out, model)?;
    for name in &written {
        let body = scribe.writer(name)?;
        let export = if exported(&model.written, name) { "export " } else { "" };
        writeln!(out, "{export}function write{name}(w, v) {{\n{body}}}\n")?;
    }
    for root in model.written.iter().filter(|root| root.whole) {
        let name = &root.name;
        writeln!(out, "/** The bytes of the message `{name}`. */\nexport function encode{name}(v) {{")?;
        writeln!(out, "  const w = new Writer();\n  write{name}(w, v);\n  return w.finish();\n}}\n")?;
    }
    for layout in model.layouts {
        bits(&mut out, layout)?;
    }
    let stale: Vec<_> = WIDE.iter().filter(|path| !scribe.used.contains(**path)).collect();
    ensure!(stale.is_empty(), "{stale:?} of WIDE are no fields of 64 bits that are read");
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(out)
}

fn numbers(out: &mut String, model: &Model) -> Result<()> {
    for described in &model.numbers {
        let value = match &described.value {
            Value::Number(number) => number.to_string(),
            Value::Numbers(numbers) => {
                let list: Vec<_> = numbers.iter().map(i64::to_string).collect();
                format!("Object.freeze([{}])", list.join(", "))
            }
            Value::Names(names) => {
                let list: Vec<_> = names.iter().map(|name| format!("'{}'", snake(name))).collect();
                format!("Object.freeze([\n{}])", wrapped(&list))
            }
        };
        writeln!(out, "/** {} */\nexport const {} = {value};", described.meaning, described.name)?;
    }
    for texts in &model.texts {
        let name = plural(texts.name);
        writeln!(out, "\n/** What the variants of `{}` mean, in the order of their numbers. */", texts.name)?;
        writeln!(out, "export const {name} = Object.freeze({{")?;
        for (variant, text) in &texts.entries {
            writeln!(out, "  {variant}: {},", quoted(text))?;
        }
        writeln!(out, "}});")?;
    }
    writeln!(out, "\n/** Components' numbers on the wire. */\nexport const TAG = Object.freeze({{")?;
    for component in &model.components {
        writeln!(out, "  {}: {},", camel(component.name), component.tag)?;
    }
    writeln!(out, "}});\n")?;
    Ok(())
}

fn components(out: &mut String, model: &Model) -> Result<()> {
    writeln!(
        out,
        "/** One component: `{{name, value}}`, or null when its tag is not known: then it is to be skipped. */"
    )?;
    writeln!(out, "export function decodeComponent(tag, bytes) {{\n  const r = new Reader(bytes);\n  switch (tag) {{")?;
    for component in &model.components {
        let Shape::Named(shape) = &component.shape else { bail!("{}: {:?}", component.name, component.shape) };
        writeln!(out, "    case {}:", component.tag)?;
        writeln!(out, "      return r.finish({{ name: '{}', value: read{shape}(r) }});", camel(component.name))?;
    }
    writeln!(out, "    default:\n      return null;\n  }}\n}}\n")?;
    Ok(())
}

/// Writes down types, and notes which paths of [`WIDE`] it came by.
struct Scribe<'m> {
    model: &'m Model,
    used: BTreeSet<String>,
}

impl<'m> Scribe<'m> {
    /// The names of all types that stand in `roots` and `components`, these included.
    fn reachable<'n>(
        &self,
        roots: impl Iterator<Item = &'n String>,
        components: &[super::model::Component],
    ) -> BTreeSet<String> {
        fn note(shape: &Shape, found: &mut Vec<String>) {
            match shape {
                Shape::Named(name) => found.push(name.clone()),
                Shape::Option(inner) | Shape::List(inner) => note(inner, found),
                Shape::Tuple(parts) => parts.iter().for_each(|part| note(part, found)),
                _ => {}
            }
        }
        let mut open: Vec<String> = roots.cloned().collect();
        components.iter().for_each(|component| note(&component.shape, &mut open));
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            match self.model.types.get(&name) {
                Some(Type::Record(fields)) => fields.iter().for_each(|field| note(&field.shape, &mut open)),
                Some(Type::Choice(variants)) => {
                    for variant in variants {
                        match &variant.content {
                            Content::Value(shape) => note(shape, &mut open),
                            Content::Fields(fields) => fields.iter().for_each(|field| note(&field.shape, &mut open)),
                            Content::Nothing => {}
                        }
                    }
                }
                _ => {}
            }
        }
        seen
    }

    fn named(&self, name: &str) -> Result<&'m Type> {
        self.model.types.get(name).ok_or_else(|| anyhow!("{name} was not traced"))
    }

    fn reader(&mut self, name: &str) -> Result<String> {
        Ok(match self.named(name)? {
            Type::Record(fields) => format!("  return {};\n", object(&[], self.read_fields(name, fields)?)),
            // A newer shard may know more: they are named by number.
            Type::Names(_) => {
                format!("  const number = r.u32();\n  return {}[number] ?? `Unknown${{number}}`;\n", names_of(name))
            }
            Type::Choice(variants) => {
                let mut body = "  const variant = r.u32();\n  switch (variant) {\n".to_string();
                for (number, Variant { name: variant, content }) in variants.iter().enumerate() {
                    let path = format!("{name}.{variant}");
                    let kind = format!("kind: '{}'", snake(variant));
                    let rest = match content {
                        Content::Nothing => Vec::new(),
                        Content::Value(shape) => vec![format!("value: {}", self.read(&path, shape)?)],
                        Content::Fields(fields) => {
                            let taken = fields.iter().any(|field| field.name == "kind");
                            ensure!(!taken, "{path}: a field may not be called `kind`");
                            self.read_fields(&path, fields)?
                        }
                    };
                    writeln!(
                        body,
                        "    case {number}:\n      return {};",
                        object(&[kind], rest).replace('\n', "\n    ")
                    )?;
                }
                writeln!(body, "    default:\n      throw new Error(`holds an unknown {name} ${{variant}}`);\n  }}")?;
                body
            }
        })
    }

    fn read_fields(&mut self, path: &str, fields: &[Field]) -> Result<Vec<String>> {
        let read = |Field { name, shape }: &Field| {
            Ok(format!("{}: {}", camel(name), self.read(&format!("{path}.{name}"), shape)?))
        };
        fields.iter().map(read).collect()
    }

    /// The expression that reads a value.
    fn read(&mut self, path: &str, shape: &Shape) -> Result<String> {
        Ok(match shape {
            Shape::Bool => "r.bool()".into(),
            Shape::Unsigned(64) if WIDE.contains(&path) => {
                self.used.insert(path.to_string());
                "r.u64Big()".into()
            }
            Shape::Unsigned(bits) => format!("r.u{bits}()"),
            Shape::Signed(bits) => format!("r.i{bits}()"),
            Shape::Text => "r.text()".into(),
            Shape::Bytes => "r.lengthPrefixed()".into(),
            Shape::FixedBytes(size) => format!("r.take({size}).slice()"),
            Shape::Option(inner) => format!("r.bool() ? {} : null", self.read(path, inner)?),
            Shape::List(inner) => match &**inner {
                Shape::Named(name) => format!("r.list(read{name})"),
                inner => format!("r.list(() => {})", self.read(path, inner)?),
            },
            Shape::Tuple(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| self.read(path, part)).collect::<Result<_>>()?;
                format!("[{}]", parts.join(", "))
            }
            Shape::Named(name) => format!("read{name}(r)"),
        })
    }

    fn writer(&self, name: &str) -> Result<String> {
        Ok(match self.named(name)? {
            Type::Record(fields) => self.write_fields("  ", fields)?,
            Type::Names(_) => format!("  w.u32({}.indexOf(v));\n", names_of(name)),
            Type::Choice(variants) => {
                let mut body = "  switch (v.kind) {\n".to_string();
                for (number, Variant { name: variant, content }) in variants.iter().enumerate() {
                    writeln!(body, "    case '{}':\n      w.u32({number});", snake(variant))?;
                    body += &match content {
                        Content::Nothing => String::new(),
                        Content::Value(shape) => self.write("      ", "v.value", shape)?,
                        Content::Fields(fields) => self.write_fields("      ", fields)?,
                    };
                    body += "      break;\n";
                }
                writeln!(body, "    default:\n      throw new Error(`there is no {name} ${{v.kind}}`);\n  }}")?;
                body
            }
        })
    }

    fn write_fields(&self, indent: &str, fields: &[Field]) -> Result<String> {
        fields.iter().map(|field| self.write(indent, &format!("v.{}", camel(&field.name)), &field.shape)).collect()
    }

    /// The statements that write a value.
    fn write(&self, indent: &str, value: &str, shape: &Shape) -> Result<String> {
        Ok(match shape {
            Shape::Bool => format!("{indent}w.bool({value});\n"),
            Shape::Unsigned(bits) => format!("{indent}w.u{bits}({value});\n"),
            Shape::Signed(bits) => format!("{indent}w.i{bits}({value});\n"),
            Shape::Text => format!("{indent}w.text({value});\n"),
            Shape::Bytes => format!("{indent}w.lengthPrefixed({value});\n"),
            Shape::FixedBytes(size) => format!("{indent}w.fixed({value}, {size});\n"),
            Shape::Option(inner) => {
                let inner = self.write(indent, value, inner)?;
                ensure!(inner.lines().count() == 1, "{value}: an option of more than one statement");
                format!("{indent}w.bool({value} !== null);\n{indent}if ({value} !== null) {}", inner.trim_start())
            }
            Shape::Named(name) => format!("{indent}write{name}(w, {value});\n"),
            Shape::List(_) | Shape::Tuple(_) => bail!("{value}: no client writes {shape:?} yet"),
        })
    }
}

/// The function that reads a bit-packed record.
fn bits(out: &mut String, layout: &Layout) -> Result<()> {
    let name = layout.name;
    let classes = layout.fields.iter().find_map(|field| match field.packing {
        Packing::Classed(classes) => Some(classes),
        _ => None,
    });
    if let Some(classes) = classes {
        ensure!(matches!(layout.fields[0].packing, Packing::Classed(_)), "{name}: its classes must stand first");
        ensure!(classes.len().is_power_of_two(), "{name}: a class without a width could be read");
        let widths: Vec<_> = classes.iter().map(u32::to_string).collect();
        writeln!(out, "const {}_WIDTHS = [{}];\n", snake(name).to_uppercase(), widths.join(", "))?;
    }
    writeln!(out, "/** The bits of `{name}`; `r` is a `BitReader`. */\nexport function read{name}(r) {{")?;
    if let Some(classes) = classes {
        writeln!(out, "  const width = {}_WIDTHS[r.read({})];", snake(name).to_uppercase(), class_bits(classes))?;
    }
    let fields: Vec<_> =
        layout.fields.iter().map(|field| format!("{}: {}", camel(field.name), packed(field.packing))).collect();
    writeln!(out, "  return {};\n}}\n", object(&[], fields))?;
    Ok(())
}

fn packed(packing: Packing) -> String {
    match packing {
        Packing::Unsigned(bits) => format!("r.read({bits})"),
        Packing::Signed(bits) => format!("r.signed({bits})"),
        Packing::Record(layout) => format!("read{}(r)", layout.name),
        Packing::Maybe { present: true, of } => format!("r.flag() ? {} : null", packed(*of)),
        Packing::Maybe { present: false, of } => format!("r.flag() ? null : {}", packed(*of)),
        Packing::Classed(_) => "width === 0 ? 0 : r.signed(width)".into(),
    }
}

/// An object in one line, or in one line a field.
fn object(first: &[String], fields: Vec<String>) -> String {
    let fields: Vec<String> = first.iter().cloned().chain(fields).collect();
    let line = format!("{{ {} }}", fields.join(", "));
    if line.len() <= 90 { line } else { format!("{{\n    {},\n  }}", fields.join(",\n    ")) }
}

/// Lines of about a hundred characters.
fn wrapped(items: &[String]) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for item in items {
        if line.len() + item.len() > 100 {
            lines += &format!("{line}\n");
            line.clear();
        }
        line += if line.is_empty() { "  " } else { " " };
        line += &format!("{item},");
    }
    lines + &line + "\n"
}

fn names_of(name: &str) -> String {
    format!("{}_NAMES", snake(name).to_uppercase())
}

fn plural(name: &str) -> String {
    format!("{}S", snake(name).to_uppercase())
}

fn quoted(text: &str) -> String {
    if text.contains('\'') { format!("{text:?}") } else { format!("'{text}'") }
}

/// `MoveItems` as `move_items`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// `move_items` as `moveItems`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_string();
    words.fold(first, |out, word| {
        let mut letters = word.chars();
        letters.next().map_or(out.clone(), |letter| out + &letter.to_uppercase().to_string() + letters.as_str())
    })
}
