//! Connecting to where rank 0 may be.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// For a connection to be made.
const DIAL: Duration = Duration::from_secs(3);

/// Connects to the first address of `host` that answers.
pub(super) fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host's name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, DIAL) {
            // Where nobody listens, the system may connect a socket to itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
