//! The cluster's certificates, by openssl: one authority for all, keys on a curve, since RSA keys take seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::layout::{API, HOST, NODES, pki};
use crate::command::output;

/// Who has a certificate: the name of its files, its subject, and the names it serves under (a client has none).
struct Holder {
    file: String,
    subject: String,
    serves: String,
}

fn client(file: &str, subject: &str) -> Holder {
    Holder { file: file.to_owned(), subject: subject.to_owned(), serves: String::new() }
}

fn holders() -> Vec<Holder> {
    let mut all = vec![
        Holder {
            file: "apiserver".to_owned(),
            subject: "/CN=kube-apiserver".to_owned(),
            serves: format!(
                "IP:{API},IP:{HOST},IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,\
                 DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
            ),
        },
        client("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        client("admin", "/O=system:masters/CN=admin"),
        client("controllers", "/CN=system:kube-controller-manager"),
        client("scheduler", "/CN=system:kube-scheduler"),
    ];
    for node in &NODES {
        all.push(client(node.name, &format!("/O=system:nodes/CN=system:node:{}", node.name)));
        all.push(Holder {
            file: format!("{}-serving", node.name),
            subject: format!("/O=system:nodes/CN=system:node:{}", node.name),
            serves: format!("DNS:{},IP:{}", node.name, node.address),
        });
    }
    all
}

/// Makes all keys and certificates anew.
pub(super) fn make() -> Result<()> {
    super::machine::remove_dir(&pki())?;
    private_dir(&pki())?;
    key("ca")?;
    let mut authority = openssl(&["req", "-x509", "-new", "-days", "3650", "-subj", "/CN=podtap-test-ca"]);
    authority.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]);
    output(authority.arg("-key").arg(key_file("ca")).arg("-out").arg(certificate_file("ca")))?;
    // Signs the tokens of service accounts.
    key("tokens")?;
    output(
        openssl(&["pkey", "-pubout"]).arg("-in").arg(key_file("tokens")).arg("-out").arg(tokens_public()),
    )?;
    std::thread::scope(|scope| {
        let holders = holders();
        let running: Vec<_> =
            holders.into_iter().map(|holder| scope.spawn(move || certificate(&holder))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

/// A private key.
pub(super) fn key_file(name: &str) -> PathBuf {
    pki().join(format!("{name}.key"))
}

/// A certificate.
pub(super) fn certificate_file(name: &str) -> PathBuf {
    pki().join(format!("{name}.crt"))
}

/// What tokens are checked with.
pub(super) fn tokens_public() -> PathBuf {
    pki().join("tokens.pub")
}

/// A configuration for kubectl and others, which says where the API server is and who its reader is.
pub(super) fn kubeconfig(holder: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: podtap\n\
         clusters:\n- name: podtap\n  cluster:\n    server: https://{API}:443\n    certificate-authority: {}\n\
         users:\n- name: {holder}\n  user:\n    client-certificate: {}\n    client-key: {}\n\
         contexts:\n- name: podtap\n  context: {{cluster: podtap, user: {holder}}}\n",
        certificate_file("ca").display(),
        certificate_file(holder).display(),
        key_file(holder).display(),
    )
}

/// Writes a file that only root may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}

fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(())
}

fn certificate(holder: &Holder) -> Result<()> {
    let Holder { file, subject, serves } = holder;
    key(file)?;
    let extensions = if serves.is_empty() {
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n".to_owned()
    } else {
        format!("keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName={serves}\n")
    };
    let (request, wanted) = (pki().join(format!("{file}.csr")), pki().join(format!("{file}.ext")));
    fs::write(&wanted, extensions)?;
    let mut ask = openssl(&["req", "-new", "-subj", subject]);
    output(ask.arg("-key").arg(key_file(file)).arg("-out").arg(&request))?;
    let mut sign = openssl(&["x509", "-req", "-days", "3650"]);
    sign.arg("-CA").arg(certificate_file("ca")).arg("-CAkey").arg(key_file("ca"));
    // A number of its own: two that are signed at once must not share one.
    sign.args(["-set_serial", &serial(file)]);
    sign.arg("-in").arg(&request).arg("-extfile").arg(&wanted).arg("-out").arg(certificate_file(file));
    output(&mut sign)?;
    fs::remove_file(request)?;
    fs::remove_file(wanted)?;
    Ok(())
}

/// A number made of a name of at most 20 bytes.
fn serial(name: &str) -> String {
    let digits: String = name.bytes().take(19).map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

fn key(name: &str) -> Result<()> {
    let mut make = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    output(make.arg("-out").arg(key_file(name)))?;
    Ok(())
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}
