//! Chromium without a window, driven through Debian's chromedriver.

use fantoccini::ClientBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The browser.
pub const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";
/// Those that Chromium needs as root, and those that keep it from calling home.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,800",
];

/// Chromium on a fresh profile, with its driver. Both are ended when this is dropped.
#[derive(Debug)]
pub struct Browser {
    /// Drives it.
    pub client: fantoccini::Client,
    session_url: String,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub async fn start() -> Browser {
        for program in [CHROMIUM, CHROMEDRIVER] {
            assert!(Path::new(program).is_file(), "there is no {program}: apt-get install chromium chromium-driver");
        }
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let mut driver = Command::new(CHROMEDRIVER)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // The browser shares the driver's group, so that one signal ends both.
            .process_group(0)
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("the driver's output is a pipe")).lines();
        let port = lines.find_map(|line| {
            let line = line.expect("the driver's output is text");
            line.split_once("was started successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_string())
        });
        // Keeps the pipe empty.
        std::thread::spawn(move || lines.for_each(drop));
        let address = format!("http://127.0.0.1:{}", port.expect("the driver says its port"));
        let mut flags = FLAGS.map(String::from).to_vec();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({
            "goog:chromeOptions": { "binary": CHROMIUM, "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().expect("it is an object").clone())
            .connect(&address)
            .await
            .expect("the browser starts");
        let session = client.session_id().await.expect("the driver answers").expect("there is a session");
        Browser { client, session_url: format!("{address}/session/{session}"), driver, _profile: profile }
    }

    /// An expression of the page. Large integers come as text.
    ///
    /// # Panics
    /// When the page cannot evaluate it.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let wide = "(_, value) => typeof value === 'bigint' ? String(value) : value";
        let script = format!("return JSON.stringify({expression} ?? null, {wide})");
        let text = self.client.execute(&script, Vec::new()).await.expect("the page evaluates it");
        serde_json::from_str(text.as_str().expect("the page answers with text")).expect("it is JSON")
    }

    /// What the page wrote to the console since the last call: level and text.
    ///
    /// # Panics
    /// When the driver does not tell.
    pub fn console(&self) -> Vec<(String, String)> {
        let log = ureq::post(format!("{}/se/log", self.session_url)).send_json(json!({ "type": "browser" }));
        let entries: Value = log.expect("the driver answers").body_mut().read_json().expect("in JSON");
        let entries = entries["value"].as_array().expect("a list of entries");
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_string();
        entries.iter().map(|entry| (text(entry, "level"), text(entry, "message"))).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Politely first; what is left of the group then goes with the driver.
        let _ = ureq::delete(&self.session_url).call();
        let group = i32::try_from(self.driver.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}
