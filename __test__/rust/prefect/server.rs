//! A real Prefect server: from `PyPI`, on a free loopback port, with a home and a database of its own.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A server that is not ready by then does not start.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// The environment with Prefect that `scripts/prefect-env.sh` makes: a folder with `bin/prefect`.
pub fn environment() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/prefect-env.sh");
    let output = Command::new("bash")
        .arg(script)
        .stderr(Stdio::inherit())
        .output()
        .expect("bash is there");
    assert!(output.status.success(), "Prefect could not be installed");
    PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim())
}

/// A command of Prefect's environment that talks to this API and knows nothing of the machine's own settings.
pub fn prefect_command(program: &str, home: &Path, api_url: Option<&str>) -> Command {
    let environment = environment();
    let mut command = Command::new(environment.join("bin").join(program));
    command.env_clear();
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}/bin:{path}", environment.display()))
        .env("HOME", home)
        .env("PREFECT_HOME", home)
        .env("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        .env("DO_NOT_TRACK", "1")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "500")
        .current_dir(home);
    if let Some(api_url) = api_url {
        command.env("PREFECT_API_URL", api_url);
    }
    command
}

/// A server to test against. One that was started here is killed with everything it started when this is dropped.
pub struct Server {
    api_url: String,
    own: Option<OwnServer>,
}

struct OwnServer {
    home: tempfile::TempDir,
    address: SocketAddr,
    settings: Vec<(String, String)>,
    process: Option<Child>,
}

impl Server {
    /// The server that the test run shares, or one of its own where none is: use names and ids that no other test uses.
    pub fn shared() -> Self {
        match std::env::var("CAPTIONACC_TEST_PREFECT_API_URL") {
            Ok(api_url) => Self { api_url, own: None },
            Err(_) => Self::start(&[]),
        }
    }

    /// A server of this test alone, with these settings.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        if !settings.iter().any(|(name, _)| name.contains("DATABASE")) {
            let template = environment().join("template/prefect.db");
            fs::copy(template, home.path().join("prefect.db")).expect("the empty database is copied");
        }
        let address = free_address();
        let mut own = OwnServer {
            home,
            address,
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            process: None,
        };
        own.launch();
        Self {
            api_url: format!("http://{address}/api"),
            own: Some(own),
        }
    }

    /// `http://127.0.0.1:PORT/api`.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.api_url
            .trim_start_matches("http://")
            .trim_end_matches("/api")
            .parse()
            .expect("an address on loopback")
    }

    /// Kills it with -9, as a power cut would.
    pub fn kill(&mut self) {
        self.own.as_mut().expect("a server of this test").kill();
    }

    /// Starts it again after [`Server::kill`], on the same port and database.
    pub fn restart(&mut self) {
        self.own.as_mut().expect("a server of this test").launch();
    }
}

impl OwnServer {
    fn launch(&mut self) {
        let log = fs::File::create(self.home.path().join("server.log")).expect("a log file");
        let server = prefect_command("prefect", self.home.path(), None);
        // setpriv: a server whose test was killed by force goes with it.
        let mut command = Command::new("setpriv");
        command.env_clear().current_dir(self.home.path());
        for (name, value) in server.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .args(["--pdeathsig", "KILL", "--"])
            .arg(server.get_program())
            .args(["server", "start", "--no-ui", "--host", "127.0.0.1", "--port"])
            .arg(self.address.port().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().expect("setpriv of util-linux is there");
        let deadline = Instant::now() + START_TIMEOUT;
        // Nothing tells when the server listens but the server itself.
        while !is_healthy(self.address) {
            let ended = child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the Prefect server did not start ({ended:?}): {}",
                fs::read_to_string(self.home.path().join("server.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address on loopback where nobody listens.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// Whether `/api/health` answers 200.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        std::io::read_to_string(stream)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A PostgreSQL server of this test alone, from Debian's package, on a socket in a temporary folder.
pub struct Postgres {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one; `None` if PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let binaries = fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .find(|path| path.join("pg_ctl").exists())?;
        let folder = tempfile::tempdir().expect("a folder");
        let this = Self {
            folder,
            binaries,
            port: free_address().port(),
        };
        if is_root() {
            // PostgreSQL refuses to run as root; Debian's package brings a user for it.
            let status = Command::new("chown").arg("postgres").arg(this.folder.path()).status();
            assert!(status.expect("chown is there").success());
        }
        let data = this.data();
        this.run(&["initdb", "--no-sync", "--auth=trust", "--username=prefect", "-D", &data]);
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off",
            this.port,
            this.folder.path().display()
        );
        let log = this.folder.path().join("log").display().to_string();
        this.run(&["pg_ctl", "start", "--wait", "-D", &data, "-o", &options, "-l", &log]);
        let socket_port = this.port.to_string();
        this.run(&[
            "createdb",
            "-h",
            "127.0.0.1",
            "-p",
            &socket_port,
            "-U",
            "prefect",
            "prefect",
        ]);
        Some(this)
    }

    /// For `PREFECT_SERVER_DATABASE_CONNECTION_URL`.
    pub fn connection_url(&self) -> String {
        format!("postgresql+asyncpg://prefect@127.0.0.1:{}/prefect", self.port)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, arguments: &[&str]) {
        let program = self.binaries.join(arguments[0]);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        let status = command
            .args(&arguments[1..])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("PostgreSQL's programs are there");
        assert!(status.success(), "{arguments:?}: {status}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run(&["pg_ctl", "stop", "--mode=immediate", "-D", &self.data()]);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
