//! Addresses and keys of a running `dev`: in `DIR/dev.json` for programs, in `DIR/dev.env` for shells, and printed for
//! people.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::domain::key::hex;

/// The file for programs.
const JSON: &str = "dev.json";
/// The file for shells.
const SHELL: &str = "dev.env";

/// The content of `DIR/dev.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli) struct Facts {
    pub api: String,
    pub api_key: String,
    pub admin_key: String,
    /// A test key with the scope `admin`. Earlier versions did not write it.
    #[serde(default)]
    pub test_key: String,
    pub database_url: String,
    pub inbox_smtp: String,
    /// Address of the SMTP server for bounces. Earlier versions did not write it.
    #[serde(default)]
    pub bounces_smtp: String,
    /// Address of the SMTP server for submission. Earlier versions did not write it.
    #[serde(default)]
    pub submission_smtp: String,
}

/// A `dev.json` that another user of the machine could have written.
#[derive(Debug, thiserror::Error)]
#[error("{} is not used: it must belong to the current user, and nobody else may have write access to it", .0.display())]
pub(in crate::cli) struct UntrustedFile(PathBuf);

impl Facts {
    /// Reads the facts that an earlier start wrote.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read(dir.join(JSON)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Reads the facts for a command that sends messages and keys to the address in them. Returns an error if another
    /// user could have written them.
    pub(in crate::cli) fn read_trusted(dir: &Path) -> Result<Option<Self>, UntrustedFile> {
        let path = dir.join(JSON);
        match read_if_trusted(&path) {
            Ok(Some(text)) => Ok(serde_json::from_slice(&text).ok()),
            Ok(None) => Err(UntrustedFile(path)),
            Err(_) => Ok(None),
        }
    }

    /// Writes both files.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        write_private(dir, SHELL, self.shell().as_bytes())?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_private(dir, JSON, &text)
    }

    /// Returns the content of `DIR/dev.env`. No value contains a character that is special in a shell.
    fn shell(&self) -> String {
        let Self { api, api_key, admin_key, test_key, inbox_smtp, bounces_smtp, submission_smtp, .. } = self;
        format!(
            "API={api}\nKEY={api_key}\nADMIN_KEY={admin_key}\nTEST_KEY={test_key}\nINBOX_SMTP={inbox_smtp}\n\
             BOUNCES_SMTP={bounces_smtp}\nSUBMISSION_SMTP={submission_smtp}\n"
        )
    }

    /// Prints the addresses, the keys and two commands to try. `next` is the number of the next message in the inbox,
    /// `sign_in` the path that signs in to the dashboard.
    pub(super) fn print(&self, dir: &Path, next: u64, sign_in: Option<&str>) {
        let Self { api, api_key, admin_key, test_key, inbox_smtp, bounces_smtp, submission_smtp, .. } = self;
        let dashboard = sign_in.map_or_else(
            || "off (dashboard.enabled)".to_owned(),
            |path| format!("{api}{path}   (signs in once, within 10 minutes; then {api}/ui)"),
        );
        println!(
            "
Postrider is running. Every message goes to the inbox; nothing leaves this machine.

  API        {api}   (documentation: {api}/docs)
  API key    {api_key}
  Admin key  {admin_key}
  Test key   {test_key}   (sends nothing; the simulator plays every delivery)
  SMTP       {submission_smtp}   (send messages: any user, an API key as the password, no TLS)
  Dashboard  {dashboard}
  Inbox      {api}/inbox   (SMTP on {inbox_smtp}, any user and password)
  Webhooks   {api}/dev/hooks   (receives and shows what is posted to it)
  Bounces    {bounces_smtp}   (SMTP for the return paths of messages in the inbox)
  State      {dir}   (for scripts: {dir}/{JSON}; for a shell: . {dir}/{SHELL})

Send a message:

  curl -sS {api}/v1/messages -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
    -d '{{\"from\": \"Acme <hello@acme.test>\", \"to\": \"ann@example.test\", \"subject\": \"Hello\", \"text\": \"It works.\"}}'

Read it:

  curl -sS '{api}/v1/dev/inbox/{next}?wait=10'

Ctrl-C stops everything; the next start keeps the data.
",
            dir = dir.display()
        );
    }
}

/// Returns the content of a file, or `None` if another user could have written it.
fn read_if_trusted(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Checked before the file is opened, because opening a FIFO would wait for another process.
    if !is_trusted(&std::fs::metadata(path)?) {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    // The file may have been replaced in the meantime.
    if !is_trusted(&file.metadata()?) {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Returns whether only the current user can have written a file.
fn is_trusted(metadata: &Metadata) -> bool {
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    metadata.is_file() && is_own && metadata.mode() & 0o022 == 0
}

/// Returns the secret key of an earlier start, which encrypts DKIM keys, or creates one.
pub(super) fn reuse_or_create_secret(dir: &Path) -> anyhow::Result<String> {
    const NAME: &str = "secret_key";
    let path = dir.join(NAME);
    match std::fs::read_to_string(&path) {
        Ok(secret) => return Ok(secret.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // With a new secret, data that the existing one encrypted could not be decrypted.
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let secret = hex(&rand::random::<[u8; 32]>());
    write_private(dir, NAME, format!("{secret}\n").as_bytes())?;
    Ok(secret)
}

/// Writes a file that only this user can read, because it contains keys.
fn write_private(dir: &Path, name: &str, text: &[u8]) -> anyhow::Result<()> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        // A file left by a crash may have another mode.
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        // The rename ensures that a script that waits for the file never reads it incomplete.
        std::fs::rename(&temporary, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn file_that_others_can_write_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(JSON);
        assert!(Facts::read_trusted(dir.path()).unwrap().is_none());
        let facts = Facts {
            api: "http://127.0.0.1:8080".into(),
            api_key: String::new(),
            admin_key: String::new(),
            test_key: String::new(),
            database_url: String::new(),
            inbox_smtp: String::new(),
            bounces_smtp: String::new(),
            submission_smtp: String::new(),
        };
        facts.write(dir.path()).unwrap();
        assert!(Facts::read_trusted(dir.path()).unwrap().is_some());
        for mode in [0o620, 0o602] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(Facts::read_trusted(dir.path()).is_err(), "{mode:o}");
        }
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(Facts::read_trusted(dir.path()).unwrap().is_some());
        // Only root can give a file away.
        if chown(&path, Some(65_534), None).is_ok() {
            assert!(Facts::read_trusted(dir.path()).is_err());
        }
    }
}
