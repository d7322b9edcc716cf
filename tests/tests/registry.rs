//! `plugin push` and `plugin add oci://`, with a registry that this file starts: Google's go-containerregistry, which `cargo
//! xtask registry` builds. It lets everybody in; a gate before it asks for a password where a test wants that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use sla_profiler_tests::{Said, guests, program, run, sla_profiler};

/// A registry of a test's own, on a free port of this machine.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start() -> Self {
        let path = match std::env::var_os("SLA_PROFILER_REGISTRY").filter(|value| !value.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => program().ancestors().nth(2).unwrap().join("registry/registry"),
        };
        assert!(
            path.is_file(),
            "{} is missing: build it with `cargo xtask registry`, name the program in SLA_PROFILER_REGISTRY, or leave these \
             tests out with `cargo xtask test --without-kubernetes`",
            path.display()
        );
        let mut child = Command::new(path).args(["-port", "0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("the registry says its port").unwrap();
            if let Some((_, port)) = line.split_once("serving on port ") {
                break port.trim().parse().unwrap();
            }
        };
        // Nobody reads its log; a full pipe would stop it.
        thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    /// `oci://localhost:PORT/` and more.
    fn reference(&self, rest: &str) -> String {
        format!("oci://localhost:{}/{rest}", self.port)
    }

    /// The answer to a plain GET: status and body.
    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.send("GET", path, "", b"")
    }

    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("localhost", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: localhost\r\naccept: */*\r\ncontent-type: {media_type}\r\ncontent-length: \
             {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A user with a store of their own, and a policy in a file.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        let user = Self(tempfile::tempdir().unwrap());
        fs::write(user.0.path().join("policy.wasm"), policy()).unwrap();
        user
    }

    fn call(&self, login: Option<&str>, arguments: &[&str]) -> Said {
        let mut command = sla_profiler(arguments);
        command.current_dir(self.0.path());
        command.env("XDG_DATA_HOME", self.0.path().join("data"));
        command.env_remove("SLA_PROFILER_REGISTRY_LOGIN");
        command.envs(login.map(|login| ("SLA_PROFILER_REGISTRY_LOGIN", login)));
        run(command)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.call(None, &[arguments, &["--output", "json"]].concat());
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }
}

fn policy() -> Vec<u8> {
    guests::ranks(&[(0, 1, "1")], &[(1, 1, "1")])
}

fn sha256(bytes: &[u8]) -> String {
    sla_profiler::plugin::sha256(bytes)
}

/// Lets through who shows the token, which a password gets.
fn gate(registry: u16) -> u16 {
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let says = |stream: &mut TcpStream, head: &str, body: &str| {
                let _ = write!(
                    stream,
                    "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            };
            if text.starts_with("get /token?service=gate&scope=repository%3ateam%2fpolicy%3apull%2cpush") {
                // me:secret
                if text.contains("authorization: basic bwu6c2vjcmv0\r\n") {
                    says(&mut stream, "200 OK", "{\"token\": \"t0k3n\"}");
                } else {
                    says(&mut stream, "401 Unauthorized", "{}");
                }
            } else if text.contains("authorization: bearer t0k3n\r\n") {
                let mut onward = TcpStream::connect(("localhost", registry)).unwrap();
                onward.write_all(&request).unwrap();
                let (mut from, mut to) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
                thread::spawn(move || io::copy(&mut from, &mut to));
                thread::spawn(move || io::copy(&mut onward, &mut stream));
            } else {
                let challenge = format!(
                    "401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://localhost:{port}/token\",service=\"gate\",\
                     scope=\"repository:team/policy:pull,push\""
                );
                says(&mut stream, &challenge, "{}");
            }
        }
    });
    port
}

mod in_a_registry {
    use super::*;

    #[test]
    fn a_plugin_that_is_pushed_can_be_added_by_its_digest_anywhere() {
        let (registry, author, user) = (Registry::start(), User::new(), User::new());
        let pushed = author.json(&["plugin", "push", "policy.wasm", &registry.reference("team/policy")]);
        let reference = pushed["reference"].as_str().unwrap();
        assert!(reference.starts_with(&registry.reference("team/policy@sha256:")), "{reference}");

        let added = user.json(&["plugin", "add", reference]);
        assert_eq!(added["added"]["source"], reference);
        assert_eq!(added["added"]["sha256"], sha256(&policy()));
        let tested = user.call(None, &["plugin", "list"]);
        assert!(tested.out.contains("guest"), "{}", tested.out);

        // The same plugin is the same image, whoever pushes it, under whatever tag.
        let again = user.json(&["plugin", "push", "policy.wasm", &registry.reference("team/policy:latest")]);
        assert_eq!(again["reference"], reference);
        let tags: Value = serde_json::from_slice(&registry.get("/v2/team/policy/tags/list").1).unwrap();
        assert_eq!(tags["tags"], json!(["0.0.1", "latest"]), "the version, where no tag is given");
    }

    #[test]
    fn what_is_pushed_has_the_layout_of_the_cncf() {
        let (registry, user) = (Registry::start(), User::new());
        user.json(&["plugin", "push", "policy.wasm", &registry.reference("team/policy:1")]);
        let manifest: Value = serde_json::from_slice(&registry.get("/v2/team/policy/manifests/1").1).unwrap();
        assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], "application/wasm");
        assert_eq!(layer["digest"], format!("sha256:{}", sha256(&policy())));
        assert_eq!(layer["size"], policy().len());
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);

        let digest = manifest["config"]["digest"].as_str().unwrap();
        let config: Value =
            serde_json::from_slice(&registry.get(&format!("/v2/team/policy/blobs/{digest}")).1).unwrap();
        assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
        assert_eq!(config["layerDigests"], json!([layer["digest"]]));
        let exports = config["component"]["exports"].to_string();
        assert!(exports.contains("sla-profiler:selection/policy@0.1.0"), "{exports}");
        assert!(config["component"]["imports"].is_array());
    }

    #[test]
    fn what_is_not_there_or_is_no_plugin_is_refused_with_its_reason() {
        let (registry, user) = (Registry::start(), User::new());
        fs::write(user.0.path().join("core.wasm"), guests::core_module("done")).unwrap();
        let pushed = user.call(None, &["plugin", "push", "core.wasm", &registry.reference("team/policy")]);
        assert!(pushed.code == 4 && pushed.err.contains("core WebAssembly module"), "{}", pushed.err);

        let missing = registry.reference(&format!("team/policy@sha256:{}", "0".repeat(64)));
        let tag = registry.reference("team/policy:1");
        for (reference, words) in [(missing.as_str(), "status 404"), (&tag, "only a digest")] {
            let said = user.call(None, &["plugin", "add", reference]);
            assert_eq!(said.code, 4, "{}", said.err);
            assert!(said.err.contains(words), "{}", said.err);
        }

        // An image of something else, and one with two layers: nothing checks them on their way in.
        let empty = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", sha256(b"{}")), "size": 2 });
        let wasm = json!({ "mediaType": "application/vnd.wasm.config.v0+json", "digest": empty["digest"], "size": 2 });
        let upload = format!("/v2/team/policy/blobs/uploads/?digest={}", empty["digest"].as_str().unwrap());
        assert_eq!(registry.send("POST", &upload, "application/octet-stream", b"{}").0, 201);
        for (config, layers, words) in [
            (&empty, json!([]), "configuration is not"),
            (&wasm, json!([empty, empty]), "2 layers"),
            (&wasm, json!([empty]), "its layer is not"),
        ] {
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
            let manifest = manifest.to_string().into_bytes();
            assert_eq!(registry.send("PUT", "/v2/team/policy/manifests/odd", media_type, &manifest).0, 201);
            let reference = registry.reference(&format!("team/policy@sha256:{}", sha256(&manifest)));
            let said = user.call(None, &["plugin", "add", &reference]);
            assert!(said.code == 4 && said.err.contains(words), "{words}: {}", said.err);
        }
    }

    #[test]
    fn a_registry_that_asks_for_a_password_gets_it_and_says_so_when_there_is_none() {
        let (registry, user) = (Registry::start(), User::new());
        let reference = format!("oci://localhost:{}/team/policy", gate(registry.port));
        for login in [None, Some("me:wrong")] {
            let said = user.call(login, &["plugin", "push", "policy.wasm", &reference]);
            assert!(said.code == 4 && said.err.contains("SLA_PROFILER_REGISTRY_LOGIN"), "{}", said.err);
            assert!(!said.err.contains("wrong"), "{}", said.err);
        }
        let said = user.call(Some("me:secret"), &["plugin", "push", "policy.wasm", &reference]);
        assert_eq!(said.code, 0, "{}", said.err);
        let pinned = said.out.lines().last().unwrap().rsplit(' ').next().unwrap();
        let said = user.call(Some("me:secret"), &["plugin", "add", pinned]);
        assert_eq!(said.code, 0, "{}", said.err);
    }
}

#[test]
fn what_comes_is_compared_with_the_digest() {
    // A registry that answers everything with the same manifest.
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    let wanted = format!("oci://localhost:{port}/team/policy@sha256:{}", "0".repeat(64));
    let said = User::new().call(None, &["plugin", "add", &wanted]);
    assert!(said.code == 4 && said.err.contains("the manifest of"), "{}", said.err);
    assert!(said.err.contains(&sha256(b"{}")), "{}", said.err);
}
