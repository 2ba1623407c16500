//! Runs one proof: `prove NAME [--short]`, or `prove --list`. Ends with one line `NAME: PASS …` or `NAME: FAIL …`.

use std::process::ExitCode;
use vsekai_tests::proofs::{PROOFS, fencing, supervise};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--writer", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        // This program as one of the processes of a proof.
        return match fencing::writer(rest) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(error) => {
                eprintln!("writer: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if let [flag, rest @ ..] = &arguments[..]
        && flag == "--child"
    {
        // This program as a child of a supervisor.
        return match supervise::child(rest) {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("child: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let short = arguments.iter().any(|argument| argument == "--short");
    let name = arguments.iter().find(|argument| !argument.starts_with("--"));
    let Some(proof) = name.and_then(|name| PROOFS.iter().find(|proof| proof.name == name)) else {
        for proof in PROOFS {
            println!("{:<16}{}", proof.name, proof.shows);
        }
        let asked_for_list = arguments.iter().any(|argument| argument == "--list");
        return if asked_for_list && name.is_none() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    };
    match (proof.run)(short) {
        Ok(figures) => {
            println!("{}: PASS {figures}", proof.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}: FAIL {error:#}", proof.name);
            ExitCode::FAILURE
        }
    }
}
