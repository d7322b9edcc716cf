//! A headless Chromium, driven through its DevTools protocol: the page is looked at as a person's browser shows it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine as _;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sla_profiler_plugin_build::chromium::chromium;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// For one answer of the browser; a page is shown in well under a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// One page in a browser of its own, which ends with it.
pub struct Page {
    browser: Child,
    socket: WebSocketStream<TcpStream>,
    session: String,
    next: u64,
    /// What the page's console and its exceptions said, and what it asked the network for.
    pub said: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Drop for Page {
    fn drop(&mut self) {
        // Its own processes go with it.
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

impl Page {
    /// Opens a file, `width` × `height` pixels, `scheme` being `light` or `dark`.
    pub async fn open(file: &Path, width: u32, height: u32, scheme: &str) -> Self {
        let cache = crate::program().parent().and_then(Path::parent).expect("target").to_owned();
        let chromium = chromium(&cache, &|_| {}).expect("a Chromium, see CONTRIBUTING.md");
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = chromium.command();
        // Containers have no user namespaces; the page is ours.
        command.args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut browser = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        let mut lines = BufReader::new(browser.stderr.take().expect("piped")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned))
            .expect("Chromium says where it listens");
        // Nobody reads what it says from here on, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let authority = address.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("ws://host:port/");
        let stream = TcpStream::connect(authority).await.expect("it listens");
        let (socket, _) = client_async(&address, stream).await.expect("it speaks WebSocket");
        let mut page = Self { browser, socket, session: String::new(), next: 0, said: Vec::new(), _profile: profile };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await["targetId"].clone();
        let attached = page.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true })).await;
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        )
        .await;
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        page.call("Emulation.setEmulatedMedia", json!({ "features": feature })).await;
        page.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) })).await;
        page.evaluate(
            "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))",
        )
        .await;
        page
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut call = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(call.to_string())).await.expect("the browser lives");
        let answered = async {
            loop {
                let message = self.socket.next().await.expect("the browser lives").expect("a message");
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text).expect("JSON");
                if message["id"] == id {
                    assert!(message["error"].is_null(), "{method}: {message}");
                    return message["result"].clone();
                }
                match message["method"].as_str() {
                    Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") => {
                        self.said.push(message["params"].to_string());
                    }
                    Some("Network.requestWillBeSent") => {
                        let url = message["params"]["request"]["url"].as_str().unwrap_or_default();
                        self.said
                            .extend((!url.starts_with("file:") && !url.starts_with("blob:")).then(|| url.to_owned()));
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("no answer to {method}"))
    }

    /// The value of an expression, awaited if it is a promise.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result:#}");
        result["result"]["value"].clone()
    }

    /// Presses a key, as a person does.
    pub async fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            other => panic!("no code for {other}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let kind = if kind == "keyDown" && text.is_empty() { "rawKeyDown" } else { kind };
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// A picture of the whole page, PNG.
    pub async fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64")
    }
}
