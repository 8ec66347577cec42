//! Where traces go, by OpenTelemetry's own variables
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! As its specification wants it, a value that can not be used is a warning and counts as unset: whoever sets them for every
//! program of a machine must not find one that refuses to start.

use std::ffi::OsString;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::prefect::Secret;

/// Where traces are sent unless the address says more.
const TRACES_PATH: &str = "v1/traces";
/// Where a collector listens unless told otherwise; used where somebody asks for traces and names no address.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_DELAY: Duration = Duration::from_secs(5);
const SERVICE_NAME: &str = "captionacc";
/// What all variables of traces begin with.
pub const PREFIX: &str = "OTEL_";

/// What the variables say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traces {
    /// Where traces go; none: nowhere.
    pub export: Option<TraceSettings>,
    /// What is wrong with the variables, for people: each names its variable and the value.
    pub warnings: Vec<String>,
}

/// How traces are exported.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The address that takes them.
    pub url: String,
    /// Headers of each call.
    pub headers: Vec<(String, Secret)>,
    /// How they are written.
    pub protocol: Protocol,
    /// Longest that a call may take.
    pub timeout: Duration,
    /// How long spans are gathered before they are sent.
    pub delay: Duration,
    /// What is said of this program with all of them; `service.name` among it.
    pub resource: Vec<(String, String)>,
    /// Which traces are kept.
    pub sampler: Sampler,
}

/// How spans are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `http/protobuf`.
    Protobuf,
    /// `http/json`.
    Json,
}

/// Which traces are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether a trace that began elsewhere is kept if it is kept there.
    pub heeds_parent: bool,
    /// The share of traces, of those that are decided here; 1: all.
    pub share: f64,
}

impl Traces {
    /// What this environment says.
    pub(super) fn load(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let mut reader = Reader {
            environment,
            warnings: Vec::new(),
        };
        let export = reader.read();
        // What is not used need not be right.
        Self {
            export,
            warnings: reader.warnings,
        }
    }
}

struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// A variable; an empty one counts as unset.
    fn text(&mut self, variable: &str) -> Option<String> {
        let value = (self.environment)(variable)?;
        let Some(text) = value.to_str() else {
            self.warn(variable, &value.to_string_lossy(), "is not UTF-8");
            return None;
        };
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The first of these that is set, with its name: the one of traces goes before the one of everything.
    fn first<'b>(&mut self, variables: [&'b str; 2]) -> Option<(&'b str, String)> {
        variables
            .into_iter()
            .find_map(|variable| self.text(variable).map(|text| (variable, text)))
    }

    fn warn(&mut self, variable: &str, value: &str, problem: &str) {
        self.warnings.push(format!("{variable}={value:?} {problem}"));
    }

    fn read(&mut self) -> Option<TraceSettings> {
        match self.text("OTEL_SDK_DISABLED") {
            Some(text) if text.eq_ignore_ascii_case("true") => return None,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                self.warn(
                    "OTEL_SDK_DISABLED",
                    &text,
                    "is neither true nor false, and counts as false",
                );
            }
            _ => {}
        }
        let exporter = self.text("OTEL_TRACES_EXPORTER");
        let is_asked_for = match exporter.as_deref() {
            None => false,
            Some("none") => return None,
            Some("otlp") => true,
            Some(text) => {
                let text = text.to_owned();
                self.warn(
                    "OTEL_TRACES_EXPORTER",
                    &text,
                    "is not known here, and no traces are exported: give otlp or none",
                );
                return None;
            }
        };
        let url = self.url(is_asked_for)?;
        let protocol = self.protocol()?;
        Some(TraceSettings {
            url,
            protocol,
            headers: self.headers(),
            timeout: self.milliseconds(
                ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
                DEFAULT_TIMEOUT,
            ),
            delay: self.milliseconds(["OTEL_BSP_SCHEDULE_DELAY"; 2], DEFAULT_DELAY),
            resource: self.resource(),
            sampler: self.sampler(),
        })
    }

    fn url(&mut self, is_asked_for: bool) -> Option<String> {
        let variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let (variable, text) = match self.first(variables) {
            Some(found) => found,
            None if is_asked_for => (variables[1], DEFAULT_ENDPOINT.to_owned()),
            None => return None,
        };
        let mut url = match Url::parse(&text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            _ => {
                self.warn(
                    variable,
                    &text,
                    "is no address of http or https, and no traces are exported: give one as http://127.0.0.1:4318",
                );
                return None;
            }
        };
        if variable == variables[1] {
            let path = format!("{}/{TRACES_PATH}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Some(url.into())
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let variables = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        let Some((variable, text)) = self.first(variables) else {
            return Some(Protocol::Protobuf);
        };
        match text.as_str() {
            "http/protobuf" => Some(Protocol::Protobuf),
            "http/json" => Some(Protocol::Json),
            "grpc" => {
                self.warn(
                    variable,
                    &text,
                    "is not spoken here, and no traces are exported: give http/protobuf, and the collector's port for it (4318)",
                );
                None
            }
            _ => {
                self.warn(
                    variable,
                    &text,
                    "is not known, and http/protobuf is spoken: give http/protobuf or http/json",
                );
                Some(Protocol::Protobuf)
            }
        }
    }

    /// Values may be secrets: a part that is none is told by its number.
    fn headers(&mut self) -> Vec<(String, Secret)> {
        let Some((variable, text)) = self.first(["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"])
        else {
            return Vec::new();
        };
        let mut headers = Vec::new();
        for (number, part) in (1..).zip(text.split(',')) {
            let pair = pair(part).filter(|(name, value)| {
                reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && reqwest::header::HeaderValue::from_str(value).is_ok()
            });
            match pair {
                Some((name, value)) => headers.push((name, Secret::new(value))),
                None if part.trim().is_empty() => {}
                None => self.warnings.push(format!(
                    "{variable}: part {number} (not shown) is no NAME=VALUE of a header, and is left out"
                )),
            }
        }
        headers
    }

    fn milliseconds(&mut self, variables: [&str; 2], default: Duration) -> Duration {
        let Some((variable, text)) = self.first(variables) else {
            return default;
        };
        if let Ok(ms) = text.parse() {
            return Duration::from_millis(ms);
        }
        let problem = format!("is no number of milliseconds, and {} hold", default.as_millis());
        self.warn(variable, &text, &problem);
        default
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let mut resource = Vec::new();
        for part in self.text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().split(',') {
            match pair(part) {
                Some(pair) => resource.push(pair),
                None if part.trim().is_empty() => {}
                None => self.warn("OTEL_RESOURCE_ATTRIBUTES", part, "is no NAME=VALUE, and is left out"),
            }
        }
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            resource.retain(|(known, _)| known != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        for (name, value) in [
            ("service.name", SERVICE_NAME),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ] {
            if !resource.iter().any(|(known, _)| known == name) {
                resource.push((name.to_owned(), value.to_owned()));
            }
        }
        resource
    }

    fn sampler(&mut self) -> Sampler {
        let name = self.text("OTEL_TRACES_SAMPLER");
        let name = name.as_deref().unwrap_or("parentbased_always_on");
        let kind = name.strip_prefix("parentbased_");
        let share = match kind.unwrap_or(name) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.share(),
            _ => {
                self.warn(
                    "OTEL_TRACES_SAMPLER",
                    name,
                    "is not known here, and all traces are kept: give always_on, always_off, traceidratio, or one of them after parentbased_",
                );
                return Sampler {
                    heeds_parent: true,
                    share: 1.0,
                };
            }
        };
        Sampler {
            heeds_parent: kind.is_some(),
            share,
        }
    }

    fn share(&mut self) -> f64 {
        let Some(text) = self.text("OTEL_TRACES_SAMPLER_ARG") else {
            return 1.0;
        };
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => share,
            _ => {
                self.warn(
                    "OTEL_TRACES_SAMPLER_ARG",
                    &text,
                    "is no share from 0 to 1, and all traces are kept",
                );
                1.0
            }
        }
    }
}

/// `NAME=VALUE`, escaped as in an address.
fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let plain = |text: &str| {
        percent_decode_str(text.trim())
            .decode_utf8()
            .ok()
            .map(std::borrow::Cow::into_owned)
    };
    let (name, value) = (plain(name)?, plain(value)?);
    (!name.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Traces {
        Traces::load(&|name| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| OsString::from(value))
        })
    }

    const AT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

    #[test]
    fn nothing_is_exported_unless_somebody_asks_for_it() {
        let cases: [&[(&str, &str)]; 6] = [
            &[],
            &[("OTEL_SERVICE_NAME", "app"), ("OTEL_TRACES_SAMPLER", "nonsense")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[AT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[AT, ("OTEL_TRACES_EXPORTER", "none")],
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
        ];
        for variables in cases {
            assert_eq!(load(variables), Traces::default(), "{variables:?}");
        }
    }

    #[test]
    fn what_the_variables_say_holds_and_those_of_traces_go_first() {
        let url = |variables: &[(&str, &str)]| load(variables).export.expect("on").url;
        assert_eq!(url(&[AT]), "http://c:4318/v1/traces");
        assert_eq!(
            url(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/?a=b")]),
            "https://c/otlp/v1/traces?a=b"
        );
        assert_eq!(
            url(&[AT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x")]),
            "http://t:1/x"
        );
        assert_eq!(
            url(&[("OTEL_TRACES_EXPORTER", "otlp")]),
            "http://localhost:4318/v1/traces"
        );
        let traces = load(&[
            AT,
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20x, x-tenant = films,",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,deployment.environment=a%2Cb",
            ),
            ("OTEL_SERVICE_NAME", "films"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        assert_eq!(traces.warnings, Vec::<String>::new());
        let export = traces.export.expect("on");
        let headers: Vec<_> = export
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()))
            .collect();
        assert_eq!(headers, [("authorization", "Bearer x"), ("x-tenant", "films")]);
        assert_eq!(
            (export.protocol, export.timeout.as_millis(), export.delay.as_millis()),
            (Protocol::Json, 500, 20)
        );
        let said = |name: &str| {
            export
                .resource
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (said("service.name"), said("deployment.environment")),
            (vec!["films"], vec!["a,b"])
        );
        assert_eq!(
            export.sampler,
            Sampler {
                heeds_parent: true,
                share: 0.25
            }
        );
    }

    #[test]
    fn a_value_that_can_not_be_used_is_a_warning_that_names_it_and_counts_as_unset() {
        let rest = load(&[AT]).export;
        for (variable, value, is_on) in [
            ("OTEL_SDK_DISABLED", "perhaps", true),
            ("OTEL_TRACES_EXPORTER", "zipkin", false),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", false),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:/run/x", false),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", false),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "soap", true),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", true),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1", true),
            ("OTEL_RESOURCE_ATTRIBUTES", "nothing", true),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", true),
        ] {
            let traces = load(&[(variable, value), AT]);
            assert_eq!(traces.warnings.len(), 1, "{variable}: {:?}", traces.warnings);
            let warning = &traces.warnings[0];
            assert!(warning.starts_with(&format!("{variable}={value:?} ")), "{warning}");
            assert_eq!(traces.export, rest.clone().filter(|_| is_on), "{variable}");
        }
        let traces = load(&[
            AT,
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        assert!(
            traces.warnings[0].starts_with("OTEL_TRACES_SAMPLER_ARG=\"2\" "),
            "{:?}",
            traces.warnings
        );
        let traces = load(&[AT, ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,secret")]);
        assert!(
            traces.warnings[0].starts_with("OTEL_EXPORTER_OTLP_HEADERS: part 2"),
            "{:?}",
            traces.warnings
        );
        assert!(!traces.warnings[0].contains("secret"), "{:?}", traces.warnings);
    }
}
