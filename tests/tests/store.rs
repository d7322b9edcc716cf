//! `plugin add`, `remove`, `lock`, and runs that take plugins by name: from files, from an https server, signed or not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is the message")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, KeyPair, PKCS_ED25519, generate_simple_self_signed};
use sla_profiler_tests::{Said, guests, run, sla_profiler};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, SignatureScheme, StreamOwned};

/// A user with a store and a configuration of their own, and a plugin.
struct User {
    home: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { home: tempfile::tempdir().unwrap() };
        // The smallest policy; it names itself `guest`.
        fs::write(user.path("policy.wasm"), guests::ranks(&[(0, 1, "1")], &[(1, 1, "1")])).unwrap();
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sla_profiler(arguments);
        command.current_dir(self.home.path());
        command.env("XDG_DATA_HOME", self.path("data")).env("XDG_CONFIG_HOME", self.path("config"));
        command
    }

    fn call(&self, arguments: &[&str]) -> Said {
        run(self.command(arguments))
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let said = self.call(&[arguments, &["--output", "json"]].concat());
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    /// The file of the one plugin that was added.
    fn stored(&self) -> PathBuf {
        let files = fs::read_dir(self.path("data/sla-profiler/plugins")).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|e| e == "wasm")).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    /// Trusts the keys in its configuration.
    fn trust(&self, keys: &str) {
        fs::create_dir_all(self.path("config/sla-profiler")).unwrap();
        fs::write(self.path("config/sla-profiler/trusted-keys"), keys).unwrap();
    }
}

/// The quickstart's job, to which more can be added.
fn dgdr() -> String {
    let text = fs::read_to_string(sla_profiler_tests::root().join("examples/quickstart/dgdr.yaml")).unwrap();
    text.trim_end().to_owned()
}

#[test]
fn an_added_plugin_is_known_by_its_name_until_it_is_removed() {
    let user = User::new();
    let added = user.json(&["plugin", "add", "policy.wasm"]);
    let entry = &added["added"];
    let name = entry["name"].as_str().unwrap().to_owned();
    assert_eq!(entry["kind"], "selection-policy");
    assert_eq!(entry["contract_version"], "0.1.0");
    assert_eq!(entry["source"], user.path("policy.wasm").display().to_string());
    // What was added is what will be used, whatever becomes of the file.
    fs::remove_file(user.path("policy.wasm")).unwrap();

    let listed = user.json(&["plugin", "list"]);
    assert_eq!(&listed["added"][0], entry);
    fs::write(user.path("job.yaml"), format!("{}\n  profiler:\n    selection: {{ plugin: {name} }}\n", dgdr()))
        .unwrap();
    let pins = user.json(&["plugin", "lock", "-f", "job.yaml"])["pins"].clone();
    assert_eq!(pins[0]["sha256"], entry["sha256"], "a job file names it, too");
    let tested = user.call(&["plugin", "test", &name]);
    assert!(tested.code == 0 || tested.code == 5, "{}", tested.err);
    assert!(tested.out.starts_with(&name), "{}", tested.out);

    let unknown = user.call(&["plugin", "remove", "nobody"]);
    assert_eq!(unknown.code, 4, "{}", unknown.err);
    assert!(unknown.err.contains(&name), "{}", unknown.err);
    assert_eq!(user.call(&["plugin", "remove", &name]).code, 0);
    let gone = user.call(&["plugin", "test", &name]);
    assert_eq!(gone.code, 4, "{}", gone.err);
    assert!(gone.err.contains("no plugin has this name"), "{}", gone.err);
}

#[test]
fn a_run_refuses_a_stored_file_that_has_changed() {
    let user = User::new();
    let name = user.json(&["plugin", "add", "policy.wasm"])["added"]["name"].as_str().unwrap().to_owned();
    fs::write(user.stored(), guests::ranks(&[(0, 2, "1")], &[(1, 1, "1")])).unwrap();
    let dgdr = sla_profiler_tests::root().join("examples/quickstart/dgdr.yaml");
    let said = user.call(&["profile", "-f", dgdr.to_str().unwrap(), "--selection", &name, "--out", "run"]);
    assert_eq!(said.code, 4, "{}", said.err);
    assert!(said.err.contains("is not the file that was added"), "{}", said.err);
    assert!(!user.path("run/result.json").exists());
}

#[test]
fn what_a_run_would_refuse_is_not_kept() {
    let user = User::new();
    fs::write(user.path("core.wasm"), guests::core_module("done")).unwrap();
    fs::write(user.path("loop.wasm"), guests::sweep("describe-loop")).unwrap();
    for (file, words) in
        [("core.wasm", "core WebAssembly module"), ("loop.wasm", "describe"), ("none.wasm", "none.wasm")]
    {
        let said = user.call(&["plugin", "add", file]);
        assert_eq!(said.code, 4, "{file}: {}", said.err);
        assert!(said.err.contains(words), "{file}: {}", said.err);
    }
    let other = "0".repeat(64);
    let said = user.call(&["plugin", "add", "policy.wasm", "--sha256", &other]);
    assert_eq!(said.code, 4, "{}", said.err);
    assert!(said.err.contains(&other), "{}", said.err);
    assert_eq!(user.json(&["plugin", "list"])["added"], serde_json::json!([]));
}

#[test]
fn grants_of_an_added_plugin_hold_in_every_run_unless_the_job_gives_others() {
    let user = User::new();
    let imports = "(import \"sla-profiler:base/files@0.1.0\" \"read\" (func (param i32 i32 i32 i32 i32)))";
    let body = "(func (export \"sla-profiler:sweep/strategy@0.1.0#next\") (param i32) (result i32) (unreachable))";
    let wasm = guests::Contract::default().component_with_imports("sweep-strategy-with-files", imports, body);
    fs::write(user.path("reads.wasm"), wasm).unwrap();
    let said = user.call(&["plugin", "add", "reads.wasm"]);
    assert!(said.code == 0 && said.out.contains("--grant NAME=DIR"), "{}{}", said.out, said.err);
    let name = user.json(&["plugin", "list"])["added"][0]["name"].as_str().unwrap().to_owned();
    let refused = user.call(&["plugin", "test", &name]);
    assert!(refused.code == 4 && refused.err.contains("base/files@0.1.0"), "{}", refused.err);

    fs::create_dir(user.path("prices")).unwrap();
    let entry = user.json(&["plugin", "add", "reads.wasm", "--grant", "data=prices"]);
    assert_eq!(entry["added"]["grants"]["data"], user.path("prices").display().to_string());
    assert_eq!(entry["replaced"]["name"], name.as_str());
    // It loads now, and then does what it does.
    assert_eq!(user.call(&["plugin", "test", &name]).code, 5);
}

#[test]
fn lock_pins_what_a_job_names_and_notices_a_change() {
    let user = User::new();
    let job = format!("{}\n  profiler: # ours\n    selection:\n      plugin: policy.wasm\n", dgdr());
    fs::write(user.path("job.yaml"), &job).unwrap();
    let open = user.call(&["plugin", "lock", "-f", "job.yaml", "--check"]);
    assert!(open.code == 3 && open.err.contains("not pinned"), "{}{}", open.out, open.err);
    assert_eq!(fs::read_to_string(user.path("job.yaml")).unwrap(), job);

    let locked = user.json(&["plugin", "lock", "-f", "job.yaml"]);
    let digest = locked["pins"][0]["sha256"].as_str().unwrap();
    let pinned = fs::read_to_string(user.path("job.yaml")).unwrap();
    assert_eq!(pinned, job.clone() + &format!("      sha256: {digest}\n"));
    assert_eq!(user.call(&["plugin", "lock", "-f", "job.yaml", "--check"]).code, 0);

    fs::write(user.path("policy.wasm"), guests::ranks(&[(0, 2, "1")], &[(1, 1, "1")])).unwrap();
    let said = user.call(&["profile", "-f", "job.yaml", "--out", "run"]);
    assert!(said.code == 4 && said.err.contains("is pinned"), "{}", said.err);
    assert_eq!(user.call(&["plugin", "lock", "-f", "job.yaml", "--check"]).code, 3);
}

#[test]
fn a_job_without_plugins_of_its_own_has_nothing_to_pin() {
    let dgdr = sla_profiler_tests::root().join("examples/quickstart/dgdr.yaml");
    let said = User::new().call(&["plugin", "lock", "-f", dgdr.to_str().unwrap()]);
    assert!(said.code == 0 && said.out.contains("Nothing to pin"), "{}{}", said.out, said.err);
}

/// A key pair, and signatures as minisign writes them.
struct Signer(KeyPair);

impl Signer {
    const ID: [u8; 8] = *b"sla-test";

    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    /// The second line of a `.pub` file.
    fn key(&self) -> String {
        base64(&[b"Ed".as_slice(), &Self::ID, self.0.public_key_raw()].concat())
    }

    fn raw(&self, message: &[u8]) -> Vec<u8> {
        let der = PrivatePkcs8KeyDer::from(self.0.serialize_der());
        let key = ring::sign::any_eddsa_type(&der).unwrap();
        key.choose_scheme(&[SignatureScheme::ED25519]).unwrap().sign(message).unwrap()
    }

    fn sign(&self, content: &[u8]) -> String {
        let signature = self.raw(&blake2b(content));
        let comment = "timestamp:0\tfile:policy.wasm\thashed";
        let global = self.raw(&[&signature, comment.as_bytes()].concat());
        let line = base64(&[b"ED".as_slice(), &Self::ID, &signature].concat());
        format!("untrusted comment: by a test\n{line}\ntrusted comment: {comment}\n{}\n", base64(&global))
    }
}

/// BLAKE2b with 64 bytes of output and no key (RFC 7693), over which minisign signs. The crate would change features of
/// what wasmtime depends on.
fn blake2b(content: &[u8]) -> Vec<u8> {
    const IV: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];
    const SIGMA: [[usize; 16]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ];
    let mut h = IV;
    h[0] ^= 0x0101_0040;
    let blocks = content.len().div_ceil(128).max(1);
    for block in 0..blocks {
        let (start, end) = (block * 128, content.len().min(block * 128 + 128));
        let mut bytes = [0; 128];
        bytes[..end - start].copy_from_slice(&content[start..end]);
        let m: Vec<u64> = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let mut v = [h, IV].concat();
        v[12] ^= end as u64;
        if block + 1 == blocks {
            v[14] = !v[14];
        }
        for round in 0..12 {
            let s = SIGMA[round % 10];
            let quads = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]];
            let diagonals = [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
            for (at, [a, b, c, d]) in quads.into_iter().chain(diagonals).enumerate() {
                for (word, [right, last]) in [(m[s[2 * at]], [32, 24]), (m[s[2 * at + 1]], [16, 63])] {
                    v[a] = v[a].wrapping_add(v[b]).wrapping_add(word);
                    v[d] = (v[d] ^ v[a]).rotate_right(right);
                    v[c] = v[c].wrapping_add(v[d]);
                    v[b] = (v[b] ^ v[c]).rotate_right(last);
                }
            }
        }
        for (at, h) in h.iter_mut().enumerate() {
            *h ^= v[at] ^ v[at + 8];
        }
    }
    h.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0_u32, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[test]
fn where_keys_are_trusted_a_plugin_needs_a_signature_by_one_of_them() {
    let (user, signer, stranger) = (User::new(), Signer::new(), Signer::new());
    let wasm = fs::read(user.path("policy.wasm")).unwrap();
    user.trust(&format!("# the team's\n{}\n", signer.key()));
    let refused = |words: &str, arguments: &[&str]| {
        let said = user.call(&[&["plugin", "add", "policy.wasm"], arguments].concat());
        assert_eq!(said.code, 4, "{}", said.err);
        assert!(said.err.contains(words) && said.err.contains("trusted-keys"), "{words}: {}", said.err);
        assert_eq!(user.json(&["plugin", "list"])["added"], serde_json::json!([]));
    };
    refused("is not signed", &[]);
    fs::write(user.path("policy.wasm.minisig"), stranger.sign(&wasm)).unwrap();
    refused("is not signed by any", &[]);
    fs::write(user.path("policy.wasm.minisig"), signer.sign(b"another file")).unwrap();
    refused("is not signed by any", &[]);
    fs::write(user.path("policy.wasm.minisig"), "nonsense").unwrap();
    refused("no signature", &[]);

    fs::write(user.path("elsewhere"), signer.sign(&wasm)).unwrap();
    let added = user.json(&["plugin", "add", "policy.wasm", "--signature", "elsewhere"]);
    assert_eq!(added["added"]["signed_by"], signer.key());
    let added = user.json(&["plugin", "add", "policy.wasm", "--allow-unsigned"]);
    assert_eq!(added["added"]["signed_by"], serde_json::Value::Null);

    user.trust("no key\n");
    let said = user.call(&["plugin", "add", "policy.wasm"]);
    assert!(said.code == 4 && said.err.contains("trusted-keys:1"), "{}", said.err);
}

/// An https server on this machine with a certificate of its own. It answers each request by its path.
struct Server {
    port: u16,
    certificate: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(answer: impl Fn(&str) -> (String, Vec<u8>) + Send + Sync + 'static) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("ca.pem");
        fs::write(&certificate, cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("localhost:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
                let mut request = Vec::new();
                let mut byte = [0];
                // A client that does not trust us goes away.
                while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    request.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some(path) = text.split_whitespace().nth(1) else { continue };
                let (head, body) = answer(path);
                let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self { port, certificate, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    fn ca(&self) -> &str {
        self.certificate.to_str().unwrap()
    }
}

#[test]
fn a_plugin_comes_from_an_https_server_through_redirections_with_its_signature() {
    let (user, signer) = (User::new(), Signer::new());
    let wasm = fs::read(user.path("policy.wasm")).unwrap();
    let signature = signer.sign(&wasm).into_bytes();
    let server = Server::start(move |path| match path {
        "/latest" => ("302 Found\r\nlocation: /v1/policy.wasm?token=secret".to_owned(), Vec::new()),
        "/v1/policy.wasm?token=secret" => ("200 OK".to_owned(), wasm.clone()),
        "/latest.minisig" => ("200 OK".to_owned(), signature.clone()),
        "/down" => ("301 Moved\r\nlocation: http://localhost/x".to_owned(), Vec::new()),
        "/round" => ("307 Again\r\nlocation: /round".to_owned(), Vec::new()),
        "/large" => ("200 OK".to_owned(), vec![0; 33 << 20]),
        _ => ("404 Not Found".to_owned(), b"no".to_vec()),
    });
    let added =
        user.json(&["plugin", "add", &server.url("/latest"), "--ca-file", server.ca(), "--trusted-key", &signer.key()]);
    assert_eq!(added["added"]["source"], server.url("/latest"));
    assert_eq!(added["added"]["signed_by"], signer.key());
    assert_eq!(fs::read(user.stored()).unwrap(), fs::read(user.path("policy.wasm")).unwrap());

    for (path, words) in
        [("/none", "404"), ("/down", "redirects to"), ("/round", "redirects to"), ("/large", "longer than")]
    {
        let said = user.call(&["plugin", "add", &server.url(path), "--ca-file", server.ca()]);
        assert_eq!(said.code, 4, "{path}: {}", said.err);
        assert!(said.err.contains(words), "{path}: {}", said.err);
    }
    let distrusted = user.call(&["plugin", "add", &server.url("/latest")]);
    assert!(distrusted.code == 4 && distrusted.err.contains("TLS"), "{}", distrusted.err);
}

#[test]
fn schemes_that_keep_nothing_safe_or_that_nobody_speaks_are_refused_with_a_way_out() {
    let user = User::new();
    for (url, words) in [("http://localhost/a.wasm", "https://"), ("oci://example.org/a@sha256:00", "plugin push")] {
        let said = user.call(&["plugin", "add", url]);
        assert_eq!(said.code, 4, "{url}: {}", said.err);
        assert!(said.err.contains(words), "{url}: {}", said.err);
    }
}

#[test]
fn a_plugin_with_a_bundled_name_is_not_added() {
    let user = User::new();
    let bundled = sla_profiler_tests::program().ancestors().nth(2).unwrap().join("plugins/select-cost.wasm");
    assert!(Path::new(&bundled).exists(), "run `cargo xtask plugins`");
    let said = user.call(&["plugin", "add", bundled.to_str().unwrap()]);
    assert!(said.code == 4 && said.err.contains("comes with the program"), "{}", said.err);
}
