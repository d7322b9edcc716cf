//! Who the servers are, and who may ask them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

/// What `--token-auth-file` lets in as a member of `system:masters`.
const ADMIN_TOKEN: &str = "admin-of-this-test";

/// Certificates and keys, as files in the folder of the control plane.
pub struct Identity {
    folder: PathBuf,
    ca_pem: String,
}

impl Identity {
    /// Makes everything that the servers read.
    pub fn create(folder: &Path) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let server = CertificateParams::new(names).expect("good names").signed_by(&key, &ca).expect("a certificate");
        let account_key = KeyPair::generate().expect("a key");

        let this = Self { folder: folder.to_owned(), ca_pem: ca.pem() };
        this.write("ca.crt", &ca.pem());
        this.write("server.crt", &server.pem());
        this.write("server.key", &key.serialize_pem());
        this.write("accounts.key", &account_key.serialize_pem());
        this.write("accounts.pub", &account_key.public_key_pem());
        this.write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n"));
        this
    }

    /// The path of one of its files, as an argument.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// PEM of the authority that signed the servers' certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Certificate and key of the servers, PEM.
    pub fn server_pem(&self) -> (String, String) {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).expect("it was written");
        (read("server.crt"), read("server.key"))
    }

    /// A kubeconfig of the administrator.
    pub fn admin(&self, port: u16) -> PathBuf {
        self.kubeconfig("admin", port, ADMIN_TOKEN, "default")
    }

    /// A kubeconfig of the administrator with another current namespace.
    pub fn admin_in(&self, namespace: &str, port: u16) -> PathBuf {
        self.kubeconfig(&format!("admin-{namespace}"), port, ADMIN_TOKEN, namespace)
    }

    /// A kubeconfig for a bearer token. JSON, which is YAML.
    pub fn kubeconfig(&self, name: &str, port: u16, token: &str, namespace: &str) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.file("ca.crt"),
            }}],
            "users": [{ "name": name, "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": name, "namespace": namespace } }],
            "current-context": "test",
        });
        self.write(&format!("{name}-{port}.kubeconfig"), &config.to_string())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        // At once: another test may be reading the same kubeconfig.
        let new = tempfile::NamedTempFile::new_in(&self.folder).expect("a file");
        fs::write(new.path(), text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        new.persist(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}
