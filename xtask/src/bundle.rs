// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bundle FINDING`: generates the stand-alone reproducer anew, builds it as its reader would, runs it in a
//! guest that has nothing of ours, and writes down what it showed.

mod build;
mod guest;

pub use build::build;

use std::{path::PathBuf, time::Duration};

use ::fuzz::{
    findings::{self, Tried},
    standalone,
};
use anyhow::Result;
use clap::Args;
use harness::{
    guest::{GuestConfig, Leaks},
    run_dir::RunDir,
};

use crate::{
    accel::AccelChoice,
    exit::{Exit, Outcome},
    fuzz,
    kernel::artifact,
    paths::Cache,
    prepare::{self, Engine},
    rerun::{self, Showing},
    usage,
};

/// Options of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// A finding's folder
    folder: PathBuf,
    /// How often to boot and run it
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Rounds in each boot at most [default: the script's own]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Longest wall time of a boot, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// Engine; under the deterministic one boots differ by what QEMU gives them as entropy
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    /// Write the consoles into this folder
    #[arg(long, value_name = "DIR")]
    consoles: Option<PathBuf>,
    /// Write the reproducer, and do not build and run it
    #[arg(long)]
    untried: bool,
}

/// Runs the subcommand. Exit code 2: it shows the bug; 0: it does not; 4: there is no stand-alone form.
///
/// # Errors
/// When the folder is no finding, or reproducer or guest cannot be made.
pub fn run(args: &BundleArgs) -> Outcome {
    if !args.folder.join("verdict.yaml").exists() {
        return Err(usage!("{} is no finding: it has no verdict.yaml", args.folder.display()));
    }
    let cache = Cache::open()?;
    let stored = findings::load(&args.folder)?;
    let machine = rerun::machine_of_finding(&cache, &stored)?;
    let mut evidence = stored.evidence(&fuzz::annotator(&machine));
    evidence.config = evidence.config.or_else(|| machine.kernel_config());
    // What was tried was perhaps another one.
    evidence.record.standalone = None;
    findings::update(&evidence, &args.folder)?;
    let reproducer = match standalone::of_finding(&evidence) {
        Ok(reproducer) => reproducer,
        Err(why) => {
            println!("no stand-alone reproducer: {why}");
            return Ok(Exit::Skipped);
        }
    };
    println!("{}", args.folder.join(standalone::FOLDER).display());
    for text in &reproducer.left_out {
        println!("  {text}");
    }
    if args.untried {
        return Ok(Exit::Pass);
    }
    let kernel = machine.vmlinux.parent().and_then(artifact::load);
    let kernel = kernel.ok_or_else(|| anyhow::anyhow!("the kernel of the finding is not in the cache"))?;
    let module = build(&cache, &kernel, &reproducer)?;
    let dir = RunDir::new()?;
    let rounds = args.rounds.unwrap_or(reproducer.rounds);
    let initramfs = dir.path().join("initramfs.cpio");
    std::fs::write(&initramfs, guest::initramfs(&reproducer, &module, rounds)?)?;
    let config = GuestConfig { initramfs, ..machine.config.clone() };
    let boots = guest::Boots {
        config,
        schedule: evidence.record.schedule,
        execution: prepare::execution(&cache, args.engine, AccelChoice::Auto)?,
        leaks: Leaks::of_scan(evidence.record.leak_scan),
        limit: Duration::from_secs(args.limit),
    };
    let titles: Vec<String> = stored.verdict.titles().map(str::to_owned).collect();
    let tried = try_all(args, &boots, &titles, dir.path(), rounds)?;
    let (n_same, n_boots) = (tried.n_same, tried.n_boots);
    if n_boots == 0 {
        return Ok(Exit::Infra);
    }
    let (low, high) = rerun::interval(n_same, n_boots);
    println!(
        "{}: shown by the stand-alone reproducer in {n_same} of {n_boots} boots ({:.0} to {:.0} %)",
        stored.verdict.title,
        low * 100.0,
        high * 100.0
    );
    evidence.record.standalone = Some(tried);
    findings::update(&evidence, &args.folder)?;
    Ok(if n_same > 0 { Exit::Finding } else { Exit::Pass })
}

fn try_all(
    args: &BundleArgs,
    boots: &guest::Boots,
    titles: &[String],
    dir: &std::path::Path,
    rounds: u32,
) -> Result<Tried> {
    let mut tried = Tried { n_boots: 0, n_same: 0, rounds };
    for n in 1..=args.times {
        let started = std::time::Instant::now();
        let (console, showing) = boots.run(n, titles, dir);
        let seconds = started.elapsed().as_secs();
        if let Some(folder) = &args.consoles {
            crate::paths::make_dir(folder)?;
            std::fs::write(folder.join(format!("{n}.log")), &console)?;
        }
        let what = match showing {
            Showing::Same(report) => {
                tried.n_same += 1;
                format!("shown: {}", report.title)
            }
            Showing::Other(report) => format!("another: {}", report.title),
            Showing::None => "nothing".to_owned(),
            Showing::Infrastructure(why) => {
                eprintln!("boot {n}: failed: {}", harness::plain::block(&why));
                continue;
            }
        };
        tried.n_boots += 1;
        println!("boot {n}, {seconds} s: {}", harness::plain::line(&what, 200));
    }
    Ok(tried)
}
