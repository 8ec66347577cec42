//! `captionacc queue FLOW --name value …`: queues a flow run and prints one line of JSON.
//!
//! Drop-in for the old `python queue_flow.py FLOW …`: the same arguments, as options or by position, and `flow_run_id` in
//! the line. The options
//! of a flow are its parameters, those of flows declared in `captionacc.toml` included.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::failure::{Failure, context, not_parsed};
use super::runtime::{LAST_SPAN_TIMEOUT, surrounding_trace, with_orchestrator, working_directory};
use super::{exit, output};
use crate::domain::error::{OrchestratorError, did_you_mean};
use crate::domain::flow::{FlowDefinition, Flows, ParameterDefinition, ParameterKind, Runner};
use crate::orchestrator::queue::NewFlowRun;
use crate::settings::Settings;
use crate::telemetry::{Tracer, create_flow_run};

/// What follows `queue`, as it stands: only the settings know which flows and options there are.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The flow and its options
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FLOW VALUE… --OPTION VALUE"
    )]
    arguments: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  captionacc queue full-frames --video-id v1 --video-path v1.mp4 \\
    --db-path annotations.db --output-dir /tmp/v1
  captionacc queue crop-frames --video-id v1 --video-path v1.mp4 \\
    --db-path annotations.db --output-dir /tmp/v1 \\
    --crop-bounds '{\"left\":0,\"top\":300,\"right\":640,\"bottom\":360}' --crop-bounds-version 1
  captionacc queue caption-median-ocr --video-id v1 --db-path annotations.db --video-dir . --caption-ids '[1,2]'
  captionacc queue full-frames v1 v1.mp4 annotations.db /tmp/v1 --frame-rate 0.2

It prints one line of JSON: {\"flow_run_id\":…,\"flowRunId\":…,\"status\":\"queued\",\"priority\":…}";

/// Option that belongs to the call, not to the flow; settings refuse a parameter of that name.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What is given by position; no parameter has such a name.
const POSITIONS: &str = "by position";

/// Queues the run.
pub(super) fn perform(options: Options) -> Result<ExitCode, Failure> {
    let called = Timestamp::now();
    let settings = Settings::from_environment()?;
    for warning in &settings.traces.warnings {
        eprintln!("captionacc: {warning}");
    }
    let mut command = command(&settings.flows);
    let line = std::iter::once("captionacc queue".into()).chain(options.arguments);
    let matches = match command.try_get_matches_from_mut(line) {
        Ok(matches) => matches,
        Err(error) => return explain(&error, &settings.flows, &mut command),
    };
    let (flow_name, given) = matches.subcommand().expect("the parser requires a flow");
    let flow = settings.flows.get(flow_name)?.clone();
    let arguments = flow.parse_arguments(&texts(&flow, given)?, &working_directory()?)?;
    let new = NewFlowRun {
        idempotency_key: text(given, IDEMPOTENCY_KEY)?,
        trace: surrounding_trace(),
        ..NewFlowRun::new(flow, arguments)
    };
    let queued = with_orchestrator(&settings, async |orchestrator| {
        let tracer = Tracer::begin(settings.traces.export.as_ref());
        let queue = orchestrator.as_ref();
        let queued = create_flow_run(&tracer, queue, new, std::sync::Arc::default(), called).await;
        // A call that failed has a span too.
        tracer.flush(LAST_SPAN_TIMEOUT).await;
        Ok(queued?)
    })?;
    output::print(&output::json_line(&json!({
        "flow_run_id": queued.flow_run_id,
        "flowRunId": queued.flow_run_id,
        "status": "queued",
        "priority": queued.work_queue,
        "created": queued.created,
    })))?;
    Ok(exit::DONE)
}

/// The parser: a subcommand for each flow, an option for each of its parameters.
fn command(flows: &Flows) -> Command {
    Command::new("captionacc queue")
        .bin_name("captionacc queue")
        .about("Queue a flow run: it is durably stored when this returns")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .subcommand_value_name("FLOW")
        .subcommand_help_heading("Flows")
        .disable_help_subcommand(true)
        .subcommands(flows.iter().map(flow_command))
}

fn flow_command(flow: &FlowDefinition) -> Command {
    let key = Arg::new(IDEMPOTENCY_KEY)
        .long(IDEMPOTENCY_KEY)
        .value_name("KEY")
        .help("Two calls with one key make one flow run");
    let examples = match flow.runner {
        Runner::Command(_) => own_example(flow),
        Runner::FullFrames | Runner::CropFrames | Runner::CaptionMedianOcr => EXAMPLES.to_owned(),
    };
    let command = Command::new(flow.name.clone())
        .about(flow.description.clone())
        .after_help(examples)
        .args(flow.parameters.iter().map(option).chain([takes_any_value(key)]));
    if flow.positions().is_empty() {
        return command;
    }
    let names: Vec<String> = flow.positions().iter().map(|name| position_name(name)).collect();
    command.arg(
        Arg::new(POSITIONS)
            .action(ArgAction::Append)
            .num_args(0..)
            .value_name(names.join(" "))
            .value_parser(ValueParser::os_string())
            .help("The same by position, instead of the options of these names"),
    )
}

/// A parameter as help texts show its position: `VIDEO_ID`.
fn position_name(parameter: &str) -> String {
    parameter.replace('-', "_").to_uppercase()
}

/// The shortest call of a flow that `captionacc.toml` declares.
fn own_example(flow: &FlowDefinition) -> String {
    let required = flow.parameters.iter().filter(|parameter| parameter.default.is_none());
    let options = required.map(|parameter| format!(" --{} {}", parameter.name, value_name(parameter)));
    format!(
        "Example:\n  captionacc queue {}{}",
        flow.name,
        options.collect::<String>()
    )
}

fn value_name(parameter: &ParameterDefinition) -> &'static str {
    match parameter.kind {
        ParameterKind::Text => "TEXT",
        ParameterKind::Path => "PATH",
        ParameterKind::Number => "NUMBER",
        ParameterKind::FrameRate => "HZ",
        ParameterKind::PositiveInteger => "COUNT",
        ParameterKind::CropBounds | ParameterKind::CaptionIds => "JSON",
        ParameterKind::OnDamage => "WORD",
    }
}

fn option(parameter: &ParameterDefinition) -> Arg {
    let presence = match &parameter.default {
        Some(Value::Null) => "optional".to_owned(),
        Some(default) => format!("default: {default}"),
        None => "required".to_owned(),
    };
    let help = format!("{} [{presence}]", parameter.description);
    takes_any_value(
        Arg::new(parameter.name.clone())
            .long(parameter.name.clone())
            .value_name(value_name(parameter))
            .help(help.trim_start().to_owned()),
    )
}

/// Whatever follows the option is its value, also what starts with `-`; the flow's own check judges it.
fn takes_any_value(option: Arg) -> Arg {
    option
        .action(ArgAction::Set)
        .allow_hyphen_values(true)
        .value_parser(ValueParser::os_string())
}

/// The given values by parameter.
fn texts(flow: &FlowDefinition, given: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let mut values = Map::new();
    for parameter in &flow.parameters {
        if let Some(value) = text(given, &parameter.name)? {
            values.insert(parameter.name.clone(), Value::String(value));
        }
    }
    let by_position = if flow.positions().is_empty() {
        None
    } else {
        given.get_many::<OsString>(POSITIONS)
    };
    let Some(by_position) = by_position else {
        return Ok(values);
    };
    let names = flow.positions();
    // Which value would be whose is a guess: who mixes has made a mistake.
    if let Some(name) = names.iter().find(|name| values.contains_key(**name)) {
        return Err(Failure::argument(
            *name,
            format!(
                "given as an option beside values by position: give {} all as options, or all by position",
                names.join(", ")
            ),
        ));
    }
    for (number, value) in by_position.enumerate() {
        let Some(name) = names.get(number) else {
            let all: Vec<String> = names.iter().map(|name| position_name(name)).collect();
            return Err(Failure::argument(
                value.to_string_lossy(),
                format!(
                    "belongs to no option and no position: by position there are {}",
                    all.join(" ")
                ),
            ));
        };
        values.insert((*name).to_owned(), Value::String(utf8(name, value)?));
    }
    Ok(values)
}

fn text(given: &ArgMatches, name: &str) -> Result<Option<String>, Failure> {
    given
        .get_one::<OsString>(name)
        .map(|value| utf8(name, value))
        .transpose()
}

fn utf8(name: &str, value: &OsStr) -> Result<String, Failure> {
    match value.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::argument(
            name,
            format!(
                "{:?} is not UTF-8: give it in UTF-8 (arguments are kept as JSON)",
                value.to_string_lossy()
            ),
        )),
    }
}

/// A wrong flow and a wrong option are named as every caller of a flow gets to hear it.
fn explain(error: &clap::Error, flows: &Flows, command: &mut Command) -> Result<ExitCode, Failure> {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            flows.get(&name)?;
        }
        ErrorKind::UnknownArgument => {
            if let Some(name) = context(error, ContextKind::InvalidArg) {
                let plain_name = name.trim_start_matches("--");
                let hint = did_you_mean(
                    plain_name,
                    flows.iter().flat_map(|flow| &flow.parameters).map(|p| p.name.as_str()),
                );
                if name.starts_with("--") {
                    return Err(Failure::argument(
                        plain_name,
                        format!("unknown argument{hint} (captionacc queue FLOW --help lists them)"),
                    ));
                }
                return Err(Failure::argument(
                    plain_name,
                    "belongs to no option: values follow their option, as in --video-id v1",
                ));
            }
        }
        ErrorKind::MissingSubcommand => {
            let known: Vec<&str> = flows.iter().map(|flow| flow.name.as_str()).collect();
            output::print(&command.render_help().to_string())?;
            return Err(OrchestratorError::InvalidArgument {
                argument: "flow".to_owned(),
                problem: format!("missing: give one of {}", known.join(", ")),
            }
            .into());
        }
        _ => {}
    }
    not_parsed(error, command)
}
