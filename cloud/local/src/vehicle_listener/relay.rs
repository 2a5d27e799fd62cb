//! An admitted vehicle and the broker: packets up through the guard, whole packets down.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use super::{Admitted, End, Limits, READ_BYTES, ServerTls};
use crate::mqtt_guard::{
    BROKER_PACKET_BYTES_MAX, EndReason, Guard, Level, Refusal, Splitter, Step, ended_disconnect,
};

/// Refusals that wait to be written. A vehicle that asks for more before it reads them waits.
const REFUSALS_MAX: usize = 16;
/// Time for last words.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn run(admitted: Admitted, limits: Limits, tls: watch::Receiver<Arc<ServerTls>>) -> End {
    let Admitted { vehicle, certificates, guard, level, silence_max, broker, _connection } = admitted;
    let (vehicle_read, vehicle_write) = tokio::io::split(vehicle);
    let (broker_read, broker_write) = broker.into_split();
    let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
    let mut writer = VehicleWriter { half: vehicle_write, timeout: limits.write_timeout, is_torn: false };
    let up = Up { guard, level, vehicle: vehicle_read, broker: broker_write, refusals, silence_max };
    let ended = tokio::select! {
        ended = up.run(limits.packet_timeout) => ended,
        end = down(broker_read, refused, &mut writer) => Ended::without_words(end),
        () = unauthorized(tls, &certificates) => {
            Ended { end: End::Unauthorized, last_words: ended_disconnect(level, EndReason::NotAuthorized) }
        }
    };
    writer.close(&ended.last_words).await;
    ended.end
}

struct Ended {
    end: End,
    last_words: Vec<u8>,
}

impl Ended {
    fn without_words(end: End) -> Self {
        Self { end, last_words: Vec::new() }
    }
}

/// From the vehicle to the broker.
struct Up {
    guard: Guard,
    level: Level,
    vehicle: ReadHalf<TlsStream<TcpStream>>,
    broker: OwnedWriteHalf,
    refusals: mpsc::Sender<Vec<u8>>,
    silence_max: Duration,
}

impl Up {
    async fn run(mut self, packet_timeout: Duration) -> Ended {
        let mut buffer = vec![0; READ_BYTES];
        let mut packet_began: Option<Instant> = None;
        loop {
            let passed = match self.pass_on().await {
                Ok(passed) => passed,
                Err(ended) => return ended,
            };
            let now = Instant::now();
            let known = packet_began.filter(|_| passed == 0);
            packet_began = self.guard.is_inside_packet().then(|| known.unwrap_or(now));
            let silent_at = now + self.silence_max;
            let deadline = packet_began.map_or(silent_at, |began| silent_at.min(began + packet_timeout));
            match timeout_at(deadline, self.vehicle.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return Ended::without_words(End::Socket),
                Ok(Ok(length)) => self.guard.handle_bytes(&buffer[..length]),
                Err(_) if deadline < silent_at => return Ended::without_words(End::SlowPacket),
                Err(_) => {
                    let last_words = ended_disconnect(self.level, EndReason::KeepAlive);
                    return Ended { end: End::Silence, last_words };
                }
            }
        }
    }

    /// Everything that is complete; gives the number of packets.
    async fn pass_on(&mut self) -> Result<usize, Ended> {
        let mut passed = 0;
        loop {
            match self.guard.poll_step() {
                Ok(None) => return Ok(passed),
                Ok(Some(Step::Forward(bytes))) => {
                    self.broker.write_all(&bytes).await.map_err(|_| Ended::without_words(End::Broker))?;
                }
                Ok(Some(Step::Refuse(answer))) => {
                    self.refusals.send(answer).await.map_err(|_| Ended::without_words(End::Broker))?;
                }
                Ok(Some(Step::Goodbye(bytes))) => {
                    // The broker sees the end of the socket in any case.
                    self.broker.write_all(&bytes).await.ok();
                    return Err(Ended::without_words(End::Goodbye));
                }
                // Only the first packet gives this, and it is gone.
                Ok(Some(Step::Connect { .. })) => return Err(Ended::without_words(End::Socket)),
                Err(Refusal { violation, last_words }) => {
                    return Err(Ended { end: End::Violation(violation), last_words });
                }
            }
            passed += 1;
        }
    }
}

/// From the broker to the vehicle, packet by packet, so that refusals can come in between.
async fn down(
    mut broker: OwnedReadHalf,
    mut refused: mpsc::Receiver<Vec<u8>>,
    writer: &mut VehicleWriter,
) -> End {
    let mut splitter = Splitter::new(BROKER_PACKET_BYTES_MAX);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let written = tokio::select! {
            read = broker.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return End::Broker,
                Ok(length) => {
                    splitter.handle_bytes(&buffer[..length]);
                    match splitter.poll_whole() {
                        Ok(Some(packets)) => writer.write(&packets).await,
                        Ok(None) => Ok(()),
                        Err(_) => return End::BrokerMalformed,
                    }
                }
            },
            Some(answer) = refused.recv() => writer.write(&answer).await,
        };
        if let Err(end) = written {
            return end;
        }
    }
}

/// Ends when the certificate would not be accepted any more.
async fn unauthorized(
    mut tls: watch::Receiver<Arc<ServerTls>>,
    certificates: &[rustls::pki_types::CertificateDer<'static>],
) {
    while tls.changed().await.is_ok() {
        let current = Arc::clone(&tls.borrow_and_update());
        if !current.accepts(certificates) {
            return;
        }
    }
    // The listener is gone, and ends its connections itself.
    std::future::pending::<()>().await;
}

struct VehicleWriter {
    half: WriteHalf<TlsStream<TcpStream>>,
    timeout: Duration,
    /// A write was given up, perhaps in the middle of a packet.
    is_torn: bool,
}

impl VehicleWriter {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.is_torn = true;
        let written = timeout(self.timeout, async {
            self.half.write_all(bytes).await?;
            self.half.flush().await
        });
        match written.await {
            Ok(Ok(())) => {
                self.is_torn = false;
                Ok(())
            }
            Ok(Err(_)) => Err(End::Socket),
            Err(_) => Err(End::SlowReader),
        }
    }

    async fn close(mut self, last_words: &[u8]) {
        let words = async {
            if !self.is_torn {
                self.half.write_all(last_words).await?;
            }
            self.half.shutdown().await
        };
        // Whether they arrive does not matter.
        timeout(LAST_WORDS_TIMEOUT, words).await.ok();
    }
}
