//! The fault proxy itself, against an echo server of the standard library: each fault, and its end.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};
use trawl_tests::{
    proxy::{Direction, Fault, Proxy},
    wait,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// So long nothing must arrive for silence to count; what would arrive takes microseconds.
const SILENCE: Duration = Duration::from_millis(300);

/// How a connection ended for the echo server.
type Ended = Result<(), ErrorKind>;

/// Sends back what comes, each connection on a thread; the receiver gets how each connection ended.
fn echo() -> (SocketAddr, mpsc::Receiver<Ended>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, ends) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                let ended = loop {
                    match stream.read(&mut bytes) {
                        Ok(0) => break Ok(()),
                        Ok(n) => {
                            if let Err(error) = stream.write_all(&bytes[..n]) {
                                break Err(error.kind());
                            }
                        }
                        Err(error) => break Err(error.kind()),
                    }
                };
                // Nobody asks in most tests.
                let _unasked = tell.send(ended);
            });
        }
    });
    (address, ends)
}

struct Rig {
    proxy: Proxy,
    ends: mpsc::Receiver<Ended>,
}

impl Rig {
    fn new() -> Self {
        let (address, ends) = echo();
        Self { proxy: Proxy::start(address), ends }
    }

    /// A connection that has echoed once.
    fn client(&self) -> TcpStream {
        let mut client = self.connect();
        assert_eq!(exchange(&mut client, b"hello"), b"hello");
        client
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.proxy.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    fn server_end(&self) -> Ended {
        self.ends.recv_timeout(PATIENCE).expect("the server's connection ends")
    }

    fn wait_connections(&self, count: u64) {
        wait::until("the number of connections", PATIENCE, || {
            (self.proxy.connections() == count).then_some(())
        });
    }
}

fn exchange(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    back
}

/// How the connection ends for the client, and what came before.
fn read_to_end(client: &mut TcpStream) -> (Vec<u8>, Ended) {
    let mut bytes = Vec::new();
    let ended = client.read_to_end(&mut bytes);
    (bytes, ended.map(drop).map_err(|error| error.kind()))
}

fn assert_silent(client: &mut TcpStream) {
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let error = client.read(&mut [0; 1]).expect_err("nothing must come, not even an end");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn without_faults_every_byte_and_both_ends_pass() {
    let rig = Rig::new();
    let mut client = rig.client();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (back, ended) = read_to_end(&mut client);
    writing.join().unwrap();
    assert!(back == bytes, "{} of {} bytes came back, or others", back.len(), bytes.len());
    assert_eq!((ended, rig.server_end()), (Ok(()), Ok(())));
    let passed = rig.proxy.bytes();
    assert_eq!((passed.up, passed.down), (3_000_005, 3_000_005));
    assert_eq!(rig.proxy.accepted(), 1);
    rig.wait_connections(0);
}

#[test]
fn a_peer_that_does_not_read_slows_down_the_other() {
    let rig = Rig::new();
    let mut client = rig.connect();
    client.set_write_timeout(Some(SILENCE)).unwrap();
    let chunk = vec![7; 1 << 16];
    // Socket buffers of three connections and two queues of a megabyte take some 20 MB at the very most.
    let fits = (0..4096).take_while(|_| client.write_all(&chunk).is_ok()).count();
    assert!(fits < 4096, "the proxy took 256 MB that nobody read");
}

#[test]
fn latency_delays_each_direction_and_not_throughput() {
    let rig = Rig::new();
    let mut client = rig.client();
    let delay = Duration::from_millis(150);
    rig.proxy.set(Fault::Latency { direction: Direction::Up, delay, jitter: Duration::ZERO });
    let began = Instant::now();
    assert_eq!(exchange(&mut client, b"one way"), b"one way");
    let one = began.elapsed();
    assert!(one >= delay, "{one:?}");
    let jitter = Duration::from_millis(20);
    rig.proxy.set(Fault::Latency { direction: Direction::Both, delay, jitter });
    let began = Instant::now();
    assert_eq!(exchange(&mut client, b"both ways"), b"both ways");
    assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
    // Forty pieces one after the other take one delay, not forty; and jitter keeps their order.
    let began = Instant::now();
    let pieces: Vec<u8> = (0..40).collect();
    for piece in &pieces {
        client.write_all(&[*piece]).unwrap();
    }
    let mut back = vec![0; pieces.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, pieces);
    assert!(began.elapsed() < 20 * delay, "{:?}", began.elapsed());
    rig.proxy.heal();
    let began = Instant::now();
    assert_eq!(exchange(&mut client, b"healed"), b"healed");
    assert!(began.elapsed() < delay, "{:?}", began.elapsed());
}

#[test]
fn a_rate_bounds_bytes_until_it_is_lifted() {
    let rig = Rig::new();
    let mut client = rig.client();
    rig.proxy.set(Fault::Rate { direction: Direction::Down, bytes_per_second: 20_000 });
    let began = Instant::now();
    exchange(&mut client, &[1; 10_000]);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?} for half a second's bytes");
    client.write_all(&[2; 2_000_000]).unwrap();
    rig.proxy.heal();
    let began = Instant::now();
    client.read_exact(&mut vec![0; 2_000_000]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "still slow: {:?}", began.elapsed());
}

#[test]
fn a_cut_lets_exactly_so_many_bytes_through() {
    let rig = Rig::new();
    let mut client = rig.client();
    rig.proxy.set(Fault::CutAfter { direction: Direction::Up, bytes: 1000 });
    let before = rig.proxy.bytes().up;
    // The end may come before all of it is written.
    let _cut = client.write_all(&[3; 100_000]);
    let (_, _ended) = read_to_end(&mut client);
    let _end = rig.server_end();
    assert_eq!(rig.proxy.bytes().up - before, 1000);
    rig.wait_connections(0);
    // Each connection has a count of its own.
    let mut next = rig.connect();
    assert_eq!(exchange(&mut next, &[4; 999]), [4; 999]);
    next.write_all(&[4; 2]).unwrap();
    let (_, _ended) = read_to_end(&mut next);

    rig.proxy.heal();
    rig.proxy.set(Fault::CutAfter { direction: Direction::Down, bytes: 10 });
    let mut client = rig.connect();
    client.write_all(b"0123456789abcdef").unwrap();
    let (back, _ended) = read_to_end(&mut client);
    assert_eq!(back, b"0123456789");
    rig.proxy.heal();
    rig.client();
}

#[test]
fn a_reset_is_an_rst_on_both_sides_and_stays_while_it_is_set() {
    let rig = Rig::new();
    let (mut first, mut second) = (rig.client(), rig.client());
    rig.proxy.set(Fault::Reset);
    for client in [&mut first, &mut second] {
        assert_eq!(read_to_end(client).1, Err(ErrorKind::ConnectionReset));
        assert_eq!(rig.server_end(), Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(read_to_end(&mut rig.connect()).1, Err(ErrorKind::ConnectionReset));
    rig.proxy.heal();
    let mut client = rig.client();
    rig.proxy.reset_all();
    assert_eq!(read_to_end(&mut client).1, Err(ErrorKind::ConnectionReset));
    rig.client();
}

#[test]
fn a_black_hole_swallows_without_a_word_and_resets_when_it_is_lifted() {
    let rig = Rig::new();
    let (mut used, mut idle) = (rig.client(), rig.client());
    rig.proxy.set(Fault::Blackhole { direction: Direction::Up });
    used.write_all(b"lost").unwrap();
    assert_silent(&mut used);
    assert!(rig.ends.try_recv().is_err(), "the server saw an end");
    let mut new = rig.connect();
    new.write_all(b"lost too").unwrap();
    assert_silent(&mut new);
    rig.proxy.heal();
    for client in [&mut used, &mut new] {
        assert_eq!(read_to_end(client).1, Err(ErrorKind::ConnectionReset));
    }
    // It lost nothing.
    assert_eq!(exchange(&mut idle, b"still here"), b"still here");

    // The way down: the server gets it, its answer does not arrive.
    rig.proxy.set(Fault::Blackhole { direction: Direction::Down });
    let before = rig.proxy.bytes().up;
    idle.write_all(b"heard").unwrap();
    wait::until("the bytes to arrive", PATIENCE, || (rig.proxy.bytes().up - before == 5).then_some(()));
    assert_silent(&mut idle);
}

#[test]
fn half_open_connections_hide_their_ends_and_new_ones_work() {
    let rig = Rig::new();
    let (mut mute, gone) = (rig.client(), rig.client());
    rig.proxy.half_open_all();
    mute.write_all(b"anybody there?").unwrap();
    assert_silent(&mut mute);
    drop(gone);
    rig.client();
    let ended = rig.ends.recv_timeout(PATIENCE);
    assert_eq!(ended, Ok(Ok(())), "of the new client, which closed");
    assert!(rig.ends.recv_timeout(SILENCE).is_err(), "the server heard of an end");
    // Healing does not bring back what a firewall forgot.
    rig.proxy.heal();
    assert_silent(&mut mute);
    rig.proxy.reset_all();
    assert_eq!(read_to_end(&mut mute).1, Err(ErrorKind::ConnectionReset));
}

#[test]
fn refused_connections_do_not_harm_open_ones() {
    let rig = Rig::new();
    let mut open = rig.client();
    rig.proxy.set(Fault::Refuse);
    for _ in 0..3 {
        let error = TcpStream::connect(rig.proxy.address()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(exchange(&mut open, b"as before"), b"as before");
    rig.proxy.heal();
    rig.client();
}

#[test]
fn a_server_that_is_away_and_the_proxys_end_are_resets() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(port);
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(read_to_end(&mut client).1, Err(ErrorKind::ConnectionReset));

    let rig = Rig::new();
    let (mut client, address) = (rig.client(), rig.proxy.address());
    drop(rig);
    let (_, _ended) = read_to_end(&mut client);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn urls_keep_all_but_the_place() {
    let proxy = Proxy::start("127.0.0.1:9".parse().unwrap());
    let at = proxy.address();
    for (original, expected) in [
        ("amqp://u:p%40@127.0.0.1:5672/%2f?heartbeat=1", format!("amqp://u:p%40@{at}/%2f?heartbeat=1")),
        ("redis://:secret@127.0.0.1:6379/2", format!("redis://:secret@{at}/2")),
        ("http://127.0.0.1:8333", format!("http://{at}")),
    ] {
        assert_eq!(proxy.url(original), expected);
    }
}
