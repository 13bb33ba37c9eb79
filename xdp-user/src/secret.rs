//! The master secret: a file that only its owner can read, made on the first start.
//!
//! It holds 32 random bytes in hexadecimal and a newline. Everything the cookies' keys need is
//! derived from it, so machines that share the file accept each other's cookies.

use std::{
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use hkdf::Hkdf;
use nix::unistd::geteuid;
use sha2::Sha256;

/// Length of the secret, bytes.
pub const SECRET_LEN: usize = 32;

/// Length of the file: two digits a byte, and a newline.
const FILE_LEN: usize = 2 * SECRET_LEN + 1;

/// Permission bits of the group and of others, none of which may be set.
const FOREIGN_BITS: u32 = 0o077;

/// Tells the key derived here from others of the same secret.
const CLIENT_HASH_INFO: &[u8] = b"levee proxy client hash";

/// The master secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// From its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// The key of the hash that sends clients to backends. Machines with the same secret send a
    /// client to the same backend.
    #[must_use]
    pub fn client_hash_key(&self) -> [u64; 2] {
        let mut derived = [0; 16];
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(CLIENT_HASH_INFO, &mut derived)
            .expect("16 bytes are less than HKDF-SHA256 can give");
        let [low, high] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&derived[at..at + 8]);
            u64::from_le_bytes(word)
        });
        [low, high]
    }

    /// Reads the secret, making the file (and its directory) first if there is none.
    ///
    /// # Errors
    /// Fails when the file is not a regular file, belongs to another user than root or the one
    /// levee runs as, can be read or written by anyone else, or does not hold 64 hexadecimal
    /// digits; and when it cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => return Self::read(path, file),
        }
        create(path).with_context(|| format!("cannot make the secret file {}", path.display()))?;
        // Read back rather than kept: another levee may have made it first.
        Self::read(path, open(path))
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// As [`load_or_create`](Self::load_or_create).
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(path, open(path))
    }

    fn read(path: &Path, file: io::Result<File>) -> Result<Self> {
        let name = path.display();
        let file = file.with_context(|| format!("cannot open the secret file {name}"))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot examine the secret file {name}"))?;
        ensure!(
            metadata.is_file(),
            "the secret file {name} is not a regular file"
        );
        let mode = metadata.mode() & 0o7777;
        ensure!(
            mode & FOREIGN_BITS == 0,
            "the secret file {name} can be read or written by others: its mode is {mode:04o}, \
             allowed is 0600 (chmod 600 {name})"
        );
        let (owner, us) = (metadata.uid(), geteuid().as_raw());
        ensure!(
            owner == us || owner == 0,
            "the secret file {name} belongs to user {owner}, allowed is root or the user levee \
             runs as ({us})"
        );
        let mut bytes = Vec::new();
        // One byte more than allowed is enough to tell that it is too long.
        file.take(FILE_LEN as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read the secret file {name}"))?;
        Self::parse(&bytes).with_context(|| format!("in the secret file {name}"))
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        let valid = digits.len() == 2 * SECRET_LEN && digits.iter().all(u8::is_ascii_hexdigit);
        if !valid {
            // What was found is not quoted: it may be a secret with a typing error.
            bail!(
                "found {} bytes that are no secret, allowed: {} hexadecimal digits and a newline \
                 (remove the file to have a new one made)",
                text.len(),
                2 * SECRET_LEN
            );
        }
        let mut bytes = [0; SECRET_LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

/// The value of a hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO in its place must not hang the start.
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// Makes the file in full under another name and links it into place, so that nobody ever reads
/// half a secret, and of two that start at once one wins.
fn create(path: &Path) -> Result<()> {
    let parent = path.parent().context("the path has no directory")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .with_context(|| format!("cannot make the directory {}", parent.display()))?;
    let mut random = [0; SECRET_LEN];
    getrandom::fill(&mut random).context("cannot get random bytes")?;
    let mut text = String::with_capacity(FILE_LEN);
    for byte in random {
        write!(text, "{byte:02x}")?;
    }
    text.push('\n');
    let temporary = TemporaryFile::create(path, &text)?;
    match fs::hard_link(&temporary.0, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(File::open(parent)?.sync_all()?),
    }
}

/// A file that is removed when this is dropped.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn create(final_path: &Path, text: &str) -> Result<Self> {
        let mut name = final_path
            .file_name()
            .context("the path names no file")?
            .to_owned();
        // Not the process's number, which is the same at every start in a container: what a start
        // that was killed left behind must not be in the way.
        let number = getrandom::u64().context("cannot get random bytes")?;
        name.push(format!(".{number:016x}.tmp"));
        let path = final_path.with_file_name(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let temporary = Self(path);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn error(path: &Path) -> String {
        format!("{:#}", Secret::load_or_create(path).unwrap_err())
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("levee/secret");
        let first = Secret::load_or_create(&path).unwrap();
        assert!(first == Secret::load_or_create(&path).unwrap());
        assert!(first == Secret::load(&path).unwrap());
        assert_ne!(first.bytes(), &[0; SECRET_LEN]);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"], "nothing is left beside it");
        assert_eq!(fs::read_to_string(&path).unwrap().len(), FILE_LEN);
    }

    #[test]
    fn reads_either_case_and_no_newline() {
        let expected = Secret::new([0xab; SECRET_LEN]);
        assert!(Secret::parse("aB".repeat(SECRET_LEN).as_bytes()).unwrap() == expected);
        assert!(Secret::parse(("Ab".repeat(SECRET_LEN) + "\n").as_bytes()).unwrap() == expected);
    }

    #[test]
    fn others_must_not_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for mode in [0o644, 0o640, 0o602, 0o610] {
            write(&path, &"0".repeat(64), mode);
            let error = error(&path);
            assert!(
                error.contains("can be read or written by others"),
                "{error}"
            );
            assert!(
                error.contains(&format!("{mode:04o}, allowed is 0600")),
                "{error}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for text in [
            "",
            "short",
            &"0".repeat(63),
            &"x".repeat(64),
            &"0".repeat(80),
        ] {
            write(&path, text, 0o600);
            let error = error(&path);
            assert!(error.contains("allowed: 64 hexadecimal digits"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        fs::write(&path, [0xff; 64]).unwrap();
        let binary = error(&path);
        assert!(
            binary.contains("found 64 bytes that are no secret"),
            "{binary}"
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(error(&path).contains("is not a regular file"));
    }

    #[test]
    fn what_a_killed_start_left_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let temporary = || TemporaryFile::create(&path, "").unwrap();
        let (left, new) = (temporary(), temporary());
        assert_ne!(left.0, new.0);
    }

    #[test]
    fn debug_does_not_tell() {
        assert_eq!(format!("{:?}", Secret::new([1; 32])), "Secret(..)");
    }
}
