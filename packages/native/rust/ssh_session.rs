//! One client of an SSH server: its login, and what it runs.
//!
//! Each channel is a task that has what it began: a program on an agent connection of its own, a tunnel, or a session of SFTP.
//! A task ends by itself, or when its channel is closed, or with the connection; then it ends what it has begun, and waits for
//! the guest's word. Nothing is begun outside of a task, so that the end of all tasks is the end of all that a client had.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use microsandbox::sandbox::Sandbox as EngineSandbox;
use parking_lot::Mutex;
use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cut::{Cut, Wire};
use crate::engine::{EngineState, Kind};
use crate::exec::{self, ExecOptions, OutputPolicy, TerminalSize};
use crate::failure::Failure;
use crate::guest::Spares;
use crate::output::{Item, Stream, Wanted};
use crate::program::{KILL_CONFIRM, Policy, Program, Terms};
use crate::ssh_channel::{Exit, Gone, Inbox, Output, Room, WINDOW};
use crate::{program, ssh_sftp, tunnel};

/// How many channels one client may have open.
const CHANNELS: usize = 64;

/// What a program may have printed that its client has not taken, before it is stopped.
const UNREAD: usize = 1 << 20;

/// How much of that is taken at once.
const BATCH: usize = 128 << 10;

/// How many signals and sizes may wait.
const CONTROLS: usize = 32;

/// What a client may set of its programs' environment: variables, and bytes of them.
const VARIABLES: usize = 128;
const VARIABLES_BYTES: usize = 128 << 10;

/// How long a client that is still there may take to hear of the end of its channel.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the tasks of a connection may take to end: a program's kill, and what comes before and after it.
const LEAVE: Duration = KILL_CONFIRM.saturating_mul(2).saturating_add(Duration::from_secs(2));

/// What OpenSSH's client says for a program that could not be started, or was lost.
const NO_STATUS: u32 = 255;

const STDERR: u32 = 1;

/// What a guest has of OpenSSH, for who is not its root.
const SFTP_SERVER: &str = "for server in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server \
    /usr/libexec/openssh/sftp-server /usr/libexec/sftp-server /usr/lib/sftp-server; do \
    test -x \"$server\" && exec \"$server\"; done; \
    echo 'SFTP without a program in the guest is only for its root: log in as root, or install sftp-server' >&2; exit 127";

/// What all clients of a server have in common.
pub(crate) struct Service {
    pub(crate) sandbox: EngineSandbox,
    pub(crate) spares: Arc<Spares>,
    pub(crate) engine: Arc<EngineState>,
    pub(crate) config: Arc<Config>,
    pub(crate) authorized: Vec<PublicKey>,
    /// Who a client becomes, whatever it calls itself.
    pub(crate) user: Option<String>,
    pub(crate) sftp: bool,
    /// How long a client may take to log in; `None` is no limit.
    pub(crate) login: Option<Duration>,
}

/// Serve one client until it is gone, or `closing` is cancelled, and all that it ran has ended.
pub(crate) async fn serve(service: Arc<Service>, stream: Box<dyn Wire>, closing: &CancellationToken) {
    let ending = closing.child_token();
    let _ended = ending.clone().drop_guard();
    let entered = CancellationToken::new();
    let tasks = TaskTracker::new();
    let limit = service.login;
    let session = {
        let (config, stream) = (service.config.clone(), Cut::new(stream, &ending));
        let client = Client {
            service,
            user: None,
            channels: Channels::default(),
            ending: ending.clone(),
            entered: entered.clone(),
            tasks: tasks.clone(),
        };
        async move {
            // How a connection ended is its client's to know.
            if let Ok(session) = russh::server::run_stream(config, stream, client).await {
                let _ = session.await;
            }
        }
    };
    tokio::pin!(session);
    tokio::select! {
        () = &mut session => {}
        () = too_late(limit, &entered) => {
            ending.cancel();
            session.await;
        }
    }
    ending.cancel();
    tasks.close();
    let _ = tokio::time::timeout(LEAVE, tasks.wait()).await;
}

async fn too_late(limit: Option<Duration>, entered: &CancellationToken) {
    if let Some(limit) = limit
        && tokio::time::timeout(limit, entered.cancelled()).await.is_err()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// The open channels of a client. A channel is taken out at its end by whoever sees that first.
type Channels = Arc<Mutex<HashMap<ChannelId, Held>>>;

/// What the session has of a channel. When it goes, the channel's task ends.
struct Held {
    inbox: Arc<Inbox>,
    room: Arc<Room>,
    stage: Stage,
    ending: CancellationToken,
    _ended: DropGuard,
}

enum Stage {
    /// A session whose client has still to say what it is to be.
    Asked(Box<Asked>),
    Program(mpsc::Sender<Control>),
    Other,
}

/// What a client has said of its session so far.
struct Asked {
    output: Output,
    variables: BTreeMap<String, String>,
    terminal: Option<(TerminalSize, String)>,
}

enum Control {
    Signal(Sig, i32),
    Size(u16, u16),
}

/// What the task of a channel has.
struct Work {
    service: Arc<Service>,
    user: String,
    inbox: Arc<Inbox>,
    ending: CancellationToken,
}

/// One client, as its session calls for what it wants. Nothing here waits for the guest: all channels would.
struct Client {
    service: Arc<Service>,
    /// Whom it has become.
    user: Option<String>,
    channels: Channels,
    ending: CancellationToken,
    /// Cancelled when it has logged in.
    entered: CancellationToken,
    tasks: TaskTracker,
}

impl Client {
    fn is_authorized(&self, key: &PublicKey) -> bool {
        self.service.authorized.iter().any(|authorized| authorized.key_data() == key.key_data())
    }

    /// Hold a new channel; `None` when there are too many.
    fn hold(&self, channel: ChannelId, room: Arc<Room>, stage: Stage) -> Option<(Arc<Inbox>, CancellationToken)> {
        let mut channels = self.channels.lock();
        if channels.len() >= CHANNELS {
            return None;
        }
        let (inbox, ending) = (Arc::<Inbox>::default(), self.ending.child_token());
        let held =
            Held { inbox: inbox.clone(), room, stage, ending: ending.clone(), _ended: ending.clone().drop_guard() };
        channels.insert(channel, held);
        Some((inbox, ending))
    }

    /// What a session is to run, once: then it is a program's, or not.
    fn take(&self, channel: ChannelId, stage: impl FnOnce() -> Stage) -> Option<(Asked, Work)> {
        let user = self.user.clone()?;
        let mut channels = self.channels.lock();
        let held = channels.get_mut(&channel)?;
        if !matches!(held.stage, Stage::Asked(_)) {
            return None;
        }
        let Stage::Asked(asked) = std::mem::replace(&mut held.stage, stage()) else { return None };
        let (inbox, ending) = (held.inbox.clone(), held.ending.clone());
        Some((*asked, Work { service: self.service.clone(), user, inbox, ending }))
    }

    fn with<T>(&self, channel: ChannelId, change: impl FnOnce(&mut Asked) -> Option<T>) -> Option<T> {
        match &mut self.channels.lock().get_mut(&channel)?.stage {
            Stage::Asked(asked) => change(asked),
            _ => None,
        }
    }

    /// Run a program on a channel, as a task.
    fn start(&self, channel: ChannelId, command: impl FnOnce(&Service) -> (String, Vec<String>)) -> bool {
        let (controls, to_control) = mpsc::channel(CONTROLS);
        let Some((asked, work)) = self.take(channel, || Stage::Program(controls)) else { return false };
        let (command, args) = command(&self.service);
        let channels = self.channels.clone();
        self.tasks.spawn(async move {
            work.run_program(command, args, asked, to_control).await;
            channels.lock().remove(&channel);
        });
        true
    }

    fn control(&self, channel: ChannelId, control: Control) -> bool {
        match self.channels.lock().get(&channel).map(|held| &held.stage) {
            Some(Stage::Program(controls)) => controls.try_send(control).is_ok(),
            _ => false,
        }
    }
}

fn answer(session: &mut Session, channel: ChannelId, done: bool) -> Result<(), russh::Error> {
    if done { session.channel_success(channel) } else { session.channel_failure(channel) }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, key: &PublicKey) -> Result<Auth, Self::Error> {
        Ok(if self.is_authorized(key) { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: &PublicKey) -> Result<Auth, Self::Error> {
        if !self.is_authorized(key) {
            return Ok(Auth::reject());
        }
        self.user = Some(self.service.user.clone().unwrap_or_else(|| user.to_owned()));
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.entered.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let output = Output::new(channel, session.handle());
        let (channel, room) = (output.id(), output.room.clone());
        let asked = Asked { output, variables: BTreeMap::new(), terminal: None };
        match self.hold(channel, room, Stage::Asked(Box::new(asked))) {
            Some(_) => reply.accept().await,
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let output = Output::new(channel, session.handle());
        let channel = output.id();
        let (Some(user), Ok(port)) = (self.user.clone(), u16::try_from(port)) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let Some((inbox, ending)) = self.hold(channel, output.room.clone(), Stage::Other) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (host, channels) = (host.to_owned(), self.channels.clone());
        let work = Work { service: self.service.clone(), user, inbox, ending };
        self.tasks.spawn(async move {
            work.forward(host, port, output, reply).await;
            channels.lock().remove(&channel);
        });
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        let inbox = self.channels.lock().get(&channel).map(|held| held.inbox.clone());
        if let Some(inbox) = inbox
            && inbox.push(data).await.is_err()
        {
            inbox.ignore();
            self.channels.lock().remove(&channel);
        }
        Ok(())
    }

    fn adjust_window(&mut self, channel: ChannelId, _current: u32) -> u32 {
        self.channels.lock().get(&channel).map_or(WINDOW, |held| held.inbox.window())
    }

    async fn window_adjusted(
        &mut self,
        channel: ChannelId,
        _size: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(held) = self.channels.lock().get(&channel) {
            held.room.widened();
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(held) = self.channels.lock().get(&channel) {
            held.inbox.end();
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.lock().remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (rows, columns) = size(rows, columns);
        let done = self.with(channel, |asked| {
            asked.terminal = Some((TerminalSize { rows, columns }, term.to_owned()));
            Some(())
        });
        answer(session, channel, done.is_some())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let done = self.with(channel, |asked| {
            let held: usize = asked.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
            let room = asked.variables.len() < VARIABLES && held + name.len() + value.len() <= VARIABLES_BYTES;
            (room && is_variable(name, value)).then(|| asked.variables.insert(name.to_owned(), value.to_owned()))
        });
        answer(session, channel, done.is_some())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let done = self.start(channel, |service| (service.shell(), Vec::new()));
        answer(session, channel, done)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // The agent takes text, and nothing else.
        let Ok(command) = String::from_utf8(command.to_vec()) else { return session.channel_failure(channel) };
        let done = self.start(channel, |service| (service.shell(), vec!["-c".into(), command]));
        answer(session, channel, done)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let done = if name != "sftp" || !self.service.sftp {
            false
        } else if self.user.as_deref().is_some_and(is_root) {
            let taken = self.take(channel, || Stage::Other);
            let done = taken.is_some();
            if let Some((asked, work)) = taken {
                let channels = self.channels.clone();
                self.tasks.spawn(async move {
                    work.serve_files(&asked.output).await;
                    channels.lock().remove(&channel);
                });
            }
            done
        } else {
            // The agent's files are its root's: who is another has them by a program of its own.
            self.start(channel, |_| ("/bin/sh".into(), vec!["-c".into(), SFTP_SERVER.into()]))
        };
        answer(session, channel, done)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (rows, columns) = size(rows, columns);
        self.control(channel, Control::Size(rows, columns));
        Ok(())
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(number) = number(&signal) {
            self.control(channel, Control::Signal(signal, number));
        }
        Ok(())
    }
}

impl Service {
    fn shell(&self) -> String {
        self.sandbox.config().spec.runtime.shell.clone().unwrap_or_else(|| "/bin/sh".into())
    }
}

impl Work {
    /// A program from its request to its end, and its client's knowledge of that.
    async fn run_program(self, command: String, args: Vec<String>, asked: Asked, controls: mpsc::Receiver<Control>) {
        let Asked { output, variables, terminal } = asked;
        let ran = async {
            let program = self.start(command, args, variables, terminal).await?;
            let exit = tokio::select! {
                biased;
                () = self.ending.cancelled() => None,
                exit = converse(&program, &self.inbox, &output, controls) => Some(exit),
            };
            // It has gone when it has said so.
            if !matches!(exit, Some(Ok(Ok(_)))) {
                program.kill().await;
            }
            Ok::<_, Failure>(exit)
        };
        // To ask for a program is not given up half way: nobody could say whether the guest has begun.
        let exit = tokio::select! {
            ran = ran => match ran {
                Ok(Some(Ok(exit))) => Some(exit),
                Ok(Some(Err(Gone))) => return,
                Ok(None) => None,
                Err(failure) => Some(Err(failure)),
            },
            () = async {
                self.ending.cancelled().await;
                tokio::time::sleep(KILL_CONFIRM.saturating_mul(2)).await;
            } => None,
        };
        self.inbox.ignore();
        let farewell = async {
            let exit = match exit {
                Some(Ok(exit)) => exit,
                Some(Err(failure)) => {
                    output.send(Some(STDERR), Bytes::from(format!("{}\r\n", said(&failure)))).await?;
                    Exit::Status(NO_STATUS)
                }
                None => Exit::Signal(Sig::KILL, "its channel was ended"),
            };
            output.exit(exit).await
        };
        self.tell(farewell).await;
    }

    /// Tell a client the last of a channel, for as long as it listens.
    async fn tell(&self, farewell: impl Future<Output = Result<(), Gone>>) {
        let ended = async {
            self.ending.cancelled().await;
            // One that has flooded its channel is still there; one that is gone has no session.
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            _ = farewell => {}
            () = ended => {}
        }
    }

    async fn start(
        &self,
        command: String,
        args: Vec<String>,
        mut variables: BTreeMap<String, String>,
        terminal: Option<(TerminalSize, String)>,
    ) -> Result<Program, Failure> {
        let (tty, term) = terminal.unzip();
        if let Some(term) = term.filter(|term| !term.is_empty() && is_variable("TERM", term)) {
            variables.insert("TERM".into(), term);
        }
        #[allow(clippy::cast_precision_loss)] // small
        let options = ExecOptions {
            command: Some(command),
            args,
            cwd: None,
            user: Some(self.user.clone()),
            env: Some(variables),
            rlimits: None,
            tty,
            timeout_ms: None,
            stdin_data: None,
            output: OutputPolicy::Wait { limit: UNREAD as f64 },
        };
        let terms =
            Terms { policy: Policy::Wait(UNREAD), collected: false, tty: options.tty.is_some(), deadline: None };
        let sandbox = &self.service.sandbox;
        let request = exec::request(sandbox, options)?;
        let spares = &self.service.spares;
        let opened = program::open(sandbox, spares, &request, false).await?;
        let (mut program, pump) = Program::new(sandbox, spares, opened, terms);
        program.drive(pump);
        Ok(program)
    }

    async fn serve_files(self, output: &Output) {
        let served = tokio::select! {
            biased;
            () = self.ending.cancelled() => return,
            served = ssh_sftp::serve(&self.service, &self.inbox, output) => served,
        };
        self.inbox.ignore();
        if let Ok(exit) = served {
            self.tell(output.exit(exit)).await;
        }
    }

    /// A connection of the client's to the guest.
    async fn forward(self, host: String, port: u16, output: Output, reply: ChannelOpenHandle) {
        let live = self.service.engine.count(Kind::Tunnel);
        let connected = tokio::select! {
            biased;
            // A reply that is dropped is a refusal.
            () = self.ending.cancelled() => return,
            connected = Box::pin(tunnel::connect_to(&self.service.sandbox, host, port, live)) => connected,
        };
        let Ok(tunnel) = connected else {
            return reply.reject(ChannelOpenFailure::ConnectFailed).await;
        };
        reply.accept().await;
        let upwards = async {
            let writing = async {
                while let Some(data) = self.inbox.next().await {
                    tunnel.write(data).await?;
                }
                tunnel.finish().await
            };
            tokio::select! {
                _ = writing => {}
                // What came from there is still to be read.
                () = tunnel.ended() => {}
            }
            self.inbox.ignore();
        };
        let downwards = async {
            // A connection that has failed ends as one that was closed: SSH has no other word.
            while let Ok(data) = tunnel.read().await {
                if data.is_empty() {
                    break;
                }
                output.send(None, data.into()).await?;
            }
            output.eof().await
        };
        let whole = tokio::select! {
            biased;
            () = self.ending.cancelled() => false,
            ((), sent) = async { tokio::join!(upwards, downwards) } => sent.is_ok(),
        };
        tunnel.close(whole).await;
        self.inbox.ignore();
        self.tell(output.close()).await;
    }
}

/// Carry a program's input, signals and output, until it has ended: how, or why nobody knows.
async fn converse(
    program: &Program,
    inbox: &Inbox,
    output: &Output,
    mut controls: mpsc::Receiver<Control>,
) -> Result<Result<Exit, Failure>, Gone> {
    // The agent does not say which signal has ended a program; what its client has sent last, it may have been.
    let sent = Mutex::new(None);
    let feeding = async {
        while let Some(data) = inbox.next().await {
            // A program that reads no more is no failure: its exit tells.
            if program.write(&data).await.is_err() {
                return inbox.ignore();
            }
        }
        let _ = program.close_stdin().await;
    };
    let steering = async {
        while let Some(control) = controls.recv().await {
            // It has ended, or its connection has, and that is told by its output.
            let _ = match control {
                Control::Signal(signal, number) => {
                    *sent.lock() = Some(signal);
                    program.signal(number).await
                }
                Control::Size(rows, columns) => program.resize(rows, columns).await,
            };
        }
    };
    let beside = async {
        tokio::join!(feeding, steering);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = print(program, output, &sent) => ended,
        () = beside => Err(Gone),
    }
}

/// Carry what a program prints, as its client takes it, until it has ended.
async fn print(program: &Program, output: &Output, sent: &Mutex<Option<Sig>>) -> Result<Result<Exit, Failure>, Gone> {
    loop {
        let items = match program.read(Wanted::Events, BATCH).await {
            Ok(items) if items.is_empty() => return Ok(Err(Failure::exec_session_lost(None))),
            Ok(items) => items,
            Err(failure) => return Ok(Err(failure)),
        };
        for item in items {
            match item {
                Item::Output { stream, data } => {
                    output.send((stream == Stream::Stderr).then_some(STDERR), data.into()).await?;
                }
                Item::Exited { code } => return Ok(Ok(exit(code, sent.lock().take()))),
                Item::Started { .. } | Item::Dropped { .. } | Item::StdinFailed { .. } => {}
            }
        }
    }
}

/// -1 is all that the agent says of a program that a signal has ended.
fn exit(code: i32, sent: Option<Sig>) -> Exit {
    if let Ok(code) = u32::try_from(code) {
        return Exit::Status(code);
    }
    let signal = sent.unwrap_or_else(|| Sig::Custom("UNKNOWN@microsandbox".into()));
    Exit::Signal(signal, "a signal has ended the program; its name is the last that the client has sent")
}

fn said(failure: &Failure) -> String {
    match failure {
        Failure::ExecFailed { message, .. }
        | Failure::ExecSessionLost { message }
        | Failure::OutputOverflow { message, .. }
        | Failure::SandboxPaused { message, .. }
        | Failure::SandboxNotRunning { message, .. }
        | Failure::AgentClient { message, .. }
        | Failure::Runtime { message, .. }
        | Failure::Protocol { message } => message.clone(),
        _ => "the program could not be run".into(),
    }
}

/// Who has all of the guest's files. Another name of its root's is taken for another user.
fn is_root(user: &str) -> bool {
    user == "root" || user == "0"
}

fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// The rows and columns of a terminal; a client that has none says 0.
fn size(rows: u32, columns: u32) -> (u16, u16) {
    let of = |given: u32, default: u16| match u16::try_from(given) {
        Ok(0) => default,
        Ok(given) => given,
        Err(_) => u16::MAX,
    };
    (of(rows, 24), of(columns, 80))
}

/// A signal's number on Linux.
fn number(signal: &Sig) -> Option<i32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => 12,
            "CONT" => 18,
            "STOP" => 19,
            "TSTP" => 20,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_its_status_or_with_the_signal_that_was_sent() {
        assert!(matches!(exit(0, Some(Sig::TERM)), Exit::Status(0)));
        assert!(matches!(exit(255, None), Exit::Status(255)));
        assert!(matches!(exit(-1, Some(Sig::TERM)), Exit::Signal(Sig::TERM, _)));
        assert!(matches!(exit(-1, None), Exit::Signal(Sig::Custom(_), _)));
    }

    #[test]
    fn a_terminal_has_a_size_whatever_its_client_says() {
        assert_eq!((size(0, 0), size(33, 111), size(1 << 20, 1)), ((24, 80), (33, 111), (u16::MAX, 1)));
    }

    #[test]
    fn a_variable_has_a_name_and_a_value_that_a_program_can_be_given() {
        assert!(is_variable("LANG", "C.UTF-8"));
        for (name, value) in [("", "a"), ("A=B", "a"), ("A\0", "a"), ("A", "a\0b")] {
            assert!(!is_variable(name, value), "{name:?}");
        }
    }

    #[test]
    fn only_root_has_the_agents_files() {
        assert!(is_root("root") && is_root("0"));
        for other in ["", "nobody", "1000", "root2", "root:root"] {
            assert!(!is_root(other), "{other}");
        }
    }

    #[test]
    fn a_signal_without_a_number_is_not_sent() {
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::Custom("USR2".into())), Some(12));
        assert_eq!(number(&Sig::Custom("INFO@openssh.com".into())), None);
    }
}
