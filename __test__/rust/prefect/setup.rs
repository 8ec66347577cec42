//! `captionacc setup` and `captionacc deploy` against a real server, read back by Prefect's own command line and client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::judge::Judge;
use super::proxy::{CloudStandIn, Fault, Plan, Proxy, body_of};
use super::server::{Server, prefect_command};

/// A user's home, and a pool and deployments that no other test has.
pub struct User {
    pub folder: tempfile::TempDir,
    pub name: String,
}

impl User {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            name: format!("test-{}", uuid::Uuid::new_v4().simple()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn profiles(&self) -> PathBuf {
        self.path(".prefect/profiles.toml")
    }

    pub fn captionacc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_captionacc"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("CAPTIONACC_HOME", self.path("home"))
            .env("CAPTIONACC_WORK_POOL", &self.name)
            .env("CAPTIONACC_DEPLOYMENT", &self.name)
            .current_dir(self.folder.path())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.captionacc(arguments).output().expect("it starts")
    }

    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The error of a command that fails.
    pub fn fail(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let mut said: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("JSON: {output:?}"));
        said["error"].take()
    }

    /// Prefect's own command line, which reads the profile that was written.
    pub fn prefect(&self, arguments: &[&str]) -> String {
        let home = self.path(".prefect");
        let output = prefect_command("prefect", &home, None)
            .args(arguments)
            .output()
            .expect("Prefect is there");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8") + &String::from_utf8_lossy(&output.stderr)
    }
}

#[test]
fn setup_and_deploy_make_what_prefects_own_tools_understand() {
    let server = Server::shared();
    let user = User::new();
    fs::create_dir_all(user.path(".prefect")).expect("a folder");
    fs::write(
        user.profiles(),
        "# of another program\nactive = \"other\"\n\n[profiles.other]\n# keep\nPREFECT_API_URL = \"http://other.invalid/api\"\n",
    )
    .expect("written");
    let setup = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    let said = user.succeed(&setup);
    assert!(said.contains("is made (limit 2)"), "{said}");

    let written = fs::read_to_string(user.profiles()).expect("written");
    assert!(
        written.starts_with("# of another program\nactive = \"captionacc\"\n"),
        "{written}"
    );
    assert!(
        written.contains("# keep\nPREFECT_API_URL = \"http://other.invalid/api\""),
        "{written}"
    );
    let mode = fs::metadata(user.profiles()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let view = user.prefect(&["config", "view"]);
    assert!(view.contains("captionacc") && view.contains(server.api_url()), "{view}");
    assert!(!view.contains("not recognized"), "{view}");
    let inspected = user.prefect(&["work-pool", "inspect", &user.name]);
    assert!(
        inspected.contains("type='process'") && inspected.contains("concurrency_limit=2"),
        "{inspected}"
    );

    let deployed: Vec<Value> = serde_json::from_str(&user.succeed(&["deploy", "--json"])).expect("JSON");
    assert_eq!(deployed.len(), 3);
    assert!(deployed.iter().all(|one| one["outcome"] == "created"), "{deployed:?}");
    for flow in ["full-frames", "crop-frames", "caption-median-ocr"] {
        let name = format!("{flow}/{}", user.name);
        let inspected = user.prefect(&["deployment", "inspect", &name, "--output", "json"]);
        assert!(inspected.contains(&user.name), "{inspected}");
    }

    let mut judge = Judge::start(server.api_url());
    let queues = judge.ask("work_queues", json!({"pool": user.name}));
    let priority = |name: &str| {
        let queues = queues.as_array().expect("queues");
        queues.iter().find(|queue| queue["name"] == name).expect(name)["priority"].clone()
    };
    assert_eq!(
        (priority("user-initiated"), priority("background")),
        (json!(1), json!(2))
    );
    let deployment = judge.ask("deployment", json!({"name": format!("full-frames/{}", user.name)}));
    assert_eq!(deployment["work_queue_name"], "background");
    assert_eq!(deployment["work_pool_name"], user.name);
    assert_eq!(deployment["enforce_parameter_schema"], true);
    // The schema is enforced by the server itself.
    let wrong = json!({"deployment": format!("full-frames/{}", user.name), "parameters": {"video-id": "v"}});
    let refusal = judge
        .try_ask("queue", wrong)
        .expect_err("the other parameters are missing");
    assert!(refusal.contains("required"), "{refusal}");
}

#[test]
fn doing_it_again_changes_nothing_and_a_change_is_named() {
    let server = Server::shared();
    let user = User::new();
    let setup = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    user.succeed(&setup);
    user.succeed(&["deploy"]);
    let before = fs::read(user.profiles()).expect("written");
    assert!(user.succeed(&setup).contains("is there (limit 2)"));
    assert_eq!(fs::read(user.profiles()).expect("written"), before);
    assert!(
        user.succeed(&[&setup[..], &["--limit", "3"]].concat())
            .contains("is changed (limit 3)")
    );
    let again: Vec<Value> = serde_json::from_str(&user.succeed(&["deploy", "--json"])).expect("JSON");
    assert!(again.iter().all(|one| one["outcome"] == "unchanged"), "{again:?}");
    let changed = user.succeed(&["deploy", "--json", "--command", "/opt/x execute"]);
    let changed: Vec<Value> = serde_json::from_str(&changed).expect("JSON");
    assert!(
        changed.iter().all(|one| one["changes"] == json!(["job_variables"])),
        "{changed:?}"
    );
}

#[test]
fn without_a_terminal_setup_says_which_options_to_give_and_changes_nothing() {
    let user = User::new();
    for (arguments, argument) in [
        (&["setup"][..], "orchestrator"),
        (&["setup", "--orchestrator", "server"], "api-url"),
        (&["setup", "--orchestrator", "cloud"], "api-key-file"),
        (
            &["setup", "--orchestrator", "embedded", "--api-url", "http://x/api"],
            "api-url",
        ),
        (&["setup", "--orchestrator", "embedded", "--limit", "3"], "limit"),
        (&["setup", "--profile", "a b"], "profile"),
        (
            &["setup", "--orchestrator", "cloud", "--api-key-file", "nowhere"],
            "api-key-file",
        ),
    ] {
        let error = user.fail(arguments);
        assert_eq!(
            error["code"], "ERR_CAPTIONACC_INVALID_ARGUMENT",
            "{arguments:?}: {error}"
        );
        assert_eq!(error["argument"], argument, "{arguments:?}: {error}");
    }
    assert_eq!(fs::read_dir(user.folder.path()).expect("a folder").count(), 0);
}

#[test]
fn an_api_that_is_not_there_or_refuses_leaves_no_profile() {
    let server = Server::shared();
    let proxy = Proxy::to(server.address());
    let user = User::new();
    proxy.plan(Plan::on("*", "/", Fault::status(401)));
    let url = proxy.api_url();
    let setup = ["setup", "--orchestrator", "server", "--api-url", &url];
    assert_eq!(user.fail(&setup)["code"], "ERR_CAPTIONACC_PREFECT_UNAUTHORIZED");
    proxy.calm();
    proxy.refuse();
    assert_eq!(user.fail(&setup)["code"], "ERR_CAPTIONACC_PREFECT_UNREACHABLE");
    assert!(!user.profiles().exists());
}

#[test]
fn an_auth_string_is_read_from_a_file_and_understood_by_prefect() {
    let server = Server::start(&[("PREFECT_SERVER_API_AUTH_STRING", "admin:secret-pass")]);
    let user = User::new();
    fs::write(user.path("auth"), "admin:secret-pass\n").expect("written");
    let file = user.path("auth");
    let file = file.to_str().expect("UTF-8");
    let setup = ["setup", "--orchestrator", "server", "--api-url", server.api_url()];
    assert_eq!(user.fail(&setup)["code"], "ERR_CAPTIONACC_PREFECT_UNAUTHORIZED");
    let output = user.run(&[&setup[..], &["--auth-string-file", file]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("secret-pass"));
    user.succeed(&["deploy"]);
    assert!(user.prefect(&["work-pool", "ls"]).contains(&user.name[..20]));
}

#[test]
fn on_the_stand_in_for_cloud_a_plan_without_pools_gets_runner_mode() {
    let server = Server::shared();
    let cloud = CloudStandIn::free();
    let proxy = Proxy::cloud(server.address(), cloud.clone());
    let user = User::new();
    fs::write(user.path("key"), &cloud.api_key).expect("written");
    let run = |arguments: &[&str]| {
        let output = user
            .captionacc(arguments)
            .env("PREFECT_CLOUD_API_URL", proxy.base_url())
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let key = user.path("key");
    let key = key.to_str().expect("UTF-8");
    let said = run(&["setup", "--orchestrator", "cloud", "--api-key-file", key]);
    assert!(
        said.contains("Runner mode") && said.contains("Your plan does not allow"),
        "{said}"
    );
    assert!(!said.contains(&cloud.api_key), "{said}");
    assert!(
        fs::read_to_string(user.profiles())
            .expect("written")
            .contains(&proxy.api_url())
    );
    let deployed: Vec<Value> = serde_json::from_str(&run(&["deploy", "--json"])).expect("JSON");
    assert!(
        deployed
            .iter()
            .all(|one| one["outcome"] == "created" && one["workPool"].is_null()),
        "{deployed:?}"
    );
    for exchange in proxy.exchanges() {
        assert!(!exchange.path.contains(&cloud.api_key));
        if exchange.path.ends_with("/deployments/") {
            assert_eq!(body_of(&exchange)["work_pool_name"], Value::Null);
        }
    }
    // The limit of the plan is told with what is used of it.
    proxy.plan(
        Plan::on(
            "POST",
            "/deployments/",
            Fault::Answer {
                status: 403,
                headers: Vec::new(),
                body: json!({"detail": "You have reached the maximum number of deployments"}).to_string(),
            },
        )
        .times(1),
    );
    let output = user
        .captionacc(&["deploy"])
        .env("PREFECT_CLOUD_API_URL", proxy.base_url())
        .env("CAPTIONACC_DEPLOYMENT", format!("{}-more", user.name))
        .output()
        .expect("it starts");
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        error.contains("deployments are registered in this workspace"),
        "{error}"
    );
}

#[test]
fn embedded_goes_before_a_profile_of_prefect() {
    let user = User::new();
    fs::create_dir_all(user.path(".prefect")).expect("a folder");
    let profiles = "active = \"a\"\n[profiles.a]\nPREFECT_API_URL = \"http://a.invalid/api\"\n";
    fs::write(user.profiles(), profiles).expect("written");
    user.succeed(&["setup", "--orchestrator", "embedded"]);
    assert_eq!(fs::read_to_string(user.profiles()).expect("there"), profiles);
    let pool: Value = serde_json::from_str(&user.succeed(&["pool", "--json"])).expect("JSON");
    assert_eq!(pool["active"], 0);
    assert_eq!(user.fail(&["deploy"])["code"], "ERR_CAPTIONACC_CONFIG");
    assert!(Path::new(&user.path("home/queue.db")).exists());
}
