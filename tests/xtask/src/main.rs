//! `cargo xtask`: the project's developer commands. `cargo xtask test` is the README's test command and what CI runs.

mod bench;
mod packages;
mod run;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Instant;

/// Developer commands of V-Sekai.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the tests need, then format check, lints, all tests and the short proofs
    Test,
    /// Run a long proof; it ends in one line `NAME: PASS …` or `NAME: FAIL …`
    Prove {
        /// Which proof; see --list
        #[arg(required_unless_present = "list")]
        name: Option<String>,
        /// The short form that CI runs
        #[arg(long)]
        short: bool,
        /// Say which proofs there are
        #[arg(long)]
        list: bool,
    },
    /// Write the codecs of the wire for other languages anew, from the Rust types
    Codecs,
    /// Run a named measurement and append it to bench/README.md
    Bench {
        /// Which measurement; see --list
        #[arg(required_unless_present = "list")]
        name: Option<String>,
        /// Say which measurements there are
        #[arg(long)]
        list: bool,
        /// Only print, do not write to bench/README.md
        #[arg(long)]
        dry_run: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Test => test(),
        Command::Prove { name, short, list } => prove(name.as_deref(), short, list),
        Command::Codecs => codecs(),
        Command::Bench { name, list, dry_run } => bench::run(name.as_deref(), list, dry_run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Proofs whose short form is part of the tests.
const SHORT_PROOFS: &[&str] = &[
    "determinism",
    "kill",
    "resume",
    "connect",
    "hostile-clients",
    "disk-faults",
    "planted-bugs",
    "fencing",
    "store-model",
    "supervise",
    "readopt",
    "shard-crash",
    "store-outage",
    "interop",
    "update-crash",
    "commands",
];

fn test() -> Result<()> {
    let begin = Instant::now();
    packages::ensure()?;
    run::cargo(&["fmt", "--all", "--check"])?;
    run::cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    // The system tests start these programs.
    run::cargo(&["build", "--workspace", "--bins", "--locked"])?;
    run::cargo(&["test", "--workspace", "--locked"])?;
    for name in SHORT_PROOFS {
        prove(Some(name), true, false)?;
    }
    println!("xtask: everything passed in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn codecs() -> Result<()> {
    run::cargo(&["build", "--quiet", "--workspace", "--bins", "--locked"])?;
    run::built("codecs", false, &[])
}

fn prove(name: Option<&str>, short: bool, list: bool) -> Result<()> {
    // The short form uses what the tests have built; the long one is worth a release build. The whole workspace either way: of single
    // packages cargo chooses other features of their dependencies, and compiles those again.
    let profile: &[&str] = if short || list { &[] } else { &["--release"] };
    run::cargo(&[&["build", "--quiet", "--workspace", "--bins", "--locked"], profile].concat())?;
    let mut arguments: Vec<&str> = name.into_iter().collect();
    arguments.extend(short.then_some("--short"));
    arguments.extend(list.then_some("--list"));
    run::built("prove", !profile.is_empty(), &arguments)
}
