//! vsftpd on a host, and a client for it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::guarded::{CLIENT, SERVER};
use crate::host::{Host, eventually};

/// Bytes a second of one transfer.
pub(crate) const RATE: usize = 4 << 20;

/// Starts the server, whose files are in `ftp` of the directory.
pub(crate) fn serve(host: &Host, dir: &Path) -> Child {
    let root = dir.join("ftp");
    std::fs::create_dir_all(root.join("pub")).unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(dir, 0o755);
    open(&root, 0o755);
    open(&root.join("pub"), 0o777);
    let config = format!(
        "listen=YES\nlisten_address={SERVER}\nbackground=NO\nanonymous_enable=YES\nwrite_enable=YES
anon_upload_enable=YES\nanon_root={}\nno_anon_password=YES\nconnect_from_port_20=YES
seccomp_sandbox=NO\nxferlog_enable=NO\nanon_max_rate={RATE}\nsecure_chroot_dir={}\n",
        root.display(),
        root.display()
    );
    std::fs::write(dir.join("vsftpd.conf"), config).unwrap();
    let mut server = Command::new("vsftpd");
    server.arg(dir.join("vsftpd.conf")).stdin(Stdio::null());
    let server = host.run(|| server.spawn()).unwrap();
    assert!(eventually(|| host
        .sh("cat /proc/thread-self/net/tcp")
        .contains(":0015 ")));
    server
}

/// A control connection, logged in.
pub(crate) struct Ftp<'a>(BufReader<TcpStream>, &'a Host);

impl<'a> Ftp<'a> {
    pub(crate) fn login(host: &'a Host) -> Self {
        let stream = host.connect(&format!("{SERVER}:21")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut ftp = Ftp(BufReader::new(stream), host);
        assert!(ftp.hear().unwrap().starts_with("220"));
        ftp.says("USER anonymous", "230");
        ftp.says("TYPE I", "200");
        ftp
    }

    pub(crate) fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }

    /// Says something and hears an answer that begins so.
    pub(crate) fn says(&mut self, line: &str, code: &str) -> String {
        self.0
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .unwrap();
        let heard = self.hear().unwrap();
        assert!(heard.starts_with(code), "{line}: {heard}");
        heard
    }

    /// The data connection of a transfer that the client opens.
    pub(crate) fn passive(&mut self, command: &str) -> TcpStream {
        let said = self.says("PASV", "227");
        let numbers = said.split(['(', ')']).nth(1).unwrap().split(',');
        let numbers: Vec<u16> = numbers.map(|n| n.parse().unwrap()).collect();
        let port = numbers[4] << 8 | numbers[5];
        let stream = self.1.connect(&format!("{SERVER}:{port}")).unwrap();
        self.says(command, "150");
        stream
    }

    /// The data connection of a transfer that the server opens.
    pub(crate) fn active(&mut self, command: &str) -> TcpStream {
        let listener: TcpListener = self.1.listen(&format!("{CLIENT}:0"));
        let port = listener.local_addr().unwrap().port();
        let address = CLIENT.replace('.', ",");
        self.says(
            &format!("PORT {address},{},{}", port >> 8, port & 255),
            "200",
        );
        self.says(command, "150");
        listener.accept().unwrap().0
    }
}
