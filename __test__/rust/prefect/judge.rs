//! Prefect's own Python client as the judge: `__test__/python/judge.py`, kept running for the length of a test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use super::server::prefect_command;

/// The judge. Dropped, its process ends.
pub struct Judge {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

impl Judge {
    /// A judge that reads this API.
    pub fn start(api_url: &str) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("__test__/python/judge.py");
        let mut child = prefect_command("python", home.path(), Some(api_url))
            .arg(script)
            .env("PREFECT_LOGGING_LEVEL", "ERROR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Python is there");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut judge = Self {
            child,
            stdin,
            stdout,
            _home: home,
        };
        judge.hear().expect("the judge is ready");
        judge
    }

    /// Asks, and expects an answer.
    pub fn ask(&mut self, verb: &str, question: Value) -> Value {
        self.try_ask(verb, question)
            .unwrap_or_else(|error| panic!("{verb}: {error}"))
    }

    /// Asks: the answer, or what the client raised.
    pub fn try_ask(&mut self, verb: &str, question: Value) -> Result<Value, String> {
        let mut question = question;
        question["verb"] = json!(verb);
        let stdin = self.stdin.as_mut().expect("open until it is dropped");
        writeln!(stdin, "{question}").expect("the judge listens");
        self.hear()
    }

    fn hear(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the judge speaks");
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the judge said {line:?}"));
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["answer"].take()),
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // The end of its stdin is the end of its loop.
        self.stdin.take();
        let _ = self.child.wait();
    }
}
