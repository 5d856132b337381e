use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use capture_api::{PodCaptureSpec, PodCaptureStatus, RequestKind, RunState};
use futures_util::stream;
use serde_json::{Value, json};

use super::*;

/// The record of pod "web" by its label.
pub(in crate::requests::kubernetes) fn record(name: &str, state: RunState) -> PodCapture {
    let mut record = PodCapture::new(
        name,
        PodCaptureSpec {
            pod: "web".into(),
            pod_uid: "uid-web".into(),
            namespace_uid: "uid-team-a".into(),
            request: RequestKind::Label,
            capture: None,
            request_uid: "uid-web".into(),
            node: "node1".into(),
            settings: None,
        },
    );
    record.metadata.namespace = Some("team-a".into());
    record.status = Some(PodCaptureStatus { state, ..PodCaptureStatus::default() });
    record
}

fn error(code: u16) -> kube::Result<Option<WatchedRecord>> {
    let status = kube::core::Status::failure("no", "Reason").with_code(code);
    Err(kube::Error::Api(status.boxed()))
}

#[test]
fn answers_say_whether_to_try_again() {
    assert!(matches!(outcome(Ok(None)), Outcome::Done(None)));
    assert!(matches!(outcome(error(404)), Outcome::Missing));
    assert!(matches!(outcome(error(409)), Outcome::Conflict));
    for code in [429, 503] {
        assert!(matches!(outcome(error(code)), Outcome::Busy), "{code}");
    }
    for code in [500, 502, 504] {
        assert!(matches!(outcome(error(code)), Outcome::Failed(why) if why == "no"), "{code}");
    }
    for code in [400, 401, 403, 422] {
        assert!(matches!(outcome(error(code)), Outcome::Refused(why) if why == "no"), "{code}");
    }
}

/// What a server was asked: methods and paths.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that answers each question, a method and a path, with a status and a body.
fn server(answer: fn(&str, Value) -> (u16, Value)) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let log = Arc::clone(&log);
            thread::spawn(move || converse(stream.unwrap(), &log, answer));
        }
    });
    (address, asked)
}

fn converse(mut stream: TcpStream, log: &Asked, answer: fn(&str, Value) -> (u16, Value)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let question = first.rsplit_once(' ').unwrap().0.split('?').next().unwrap().to_owned();
    log.lock().unwrap().push(question.clone());
    let (status, body) = answer(&question, serde_json::from_slice(&body).unwrap_or_default());
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // Whoever asked may have given up.
    let _ = stream.write_all((head + &body).as_bytes());
}

/// Lets a writer of these records talk to that server for so long; `news` is what it hears of records.
fn write(
    records: &ClusterRecords,
    address: SocketAddr,
    news: Vec<watcher::Result<Event<WatchedRecord>>>,
    within: Duration,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("http://{address}").parse().unwrap();
        let client = Client::try_from(kube::Config::new(url)).unwrap();
        let namespaces = NamespaceUids::default();
        for namespace in ["team-a", "team-b"] {
            namespaces.lock().unwrap().insert(namespace.into(), "uid-team-a".into());
        }
        let mut writer = Writer::new(Arc::clone(&records.0), client, namespaces);
        let news = stream::iter(news).chain(stream::pending());
        let _ = tokio::time::timeout(within, writer.run(news, &Notify::new())).await;
    });
}

fn listed() -> Vec<watcher::Result<Event<WatchedRecord>>> {
    vec![Ok(Event::Init), Ok(Event::InitDone)]
}

fn publish(records: &ClusterRecords, namespace: &str, name: &str) {
    let mut record = record(name, RunState::Capturing);
    record.metadata.namespace = Some(namespace.to_owned());
    records.publish(&record);
}

/// How often it was asked so.
fn times(asked: &Asked, question: &str) -> usize {
    asked.lock().unwrap().iter().filter(|known| known.starts_with(question)).count()
}

const RECORDS: &str = "/apis/podtap.dev/v1alpha1/namespaces";

/// Takes records of team-b only.
fn fails_for_team_a(question: &str, mut body: Value) -> (u16, Value) {
    if question.contains("/team-a/") {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "failed calling webhook", "reason": "InternalError", "code": 500});
        return (500, status);
    }
    body["metadata"] = json!({"namespace": "team-b", "name": "web", "uid": "u"});
    (201, body)
}

#[test]
fn a_server_that_fails_for_one_namespace_is_written_to_for_the_others() {
    let (address, asked) = server(fails_for_team_a);
    let records = ClusterRecords::new("node1", &Telemetry::default());
    for number in 0..10 {
        publish(&records, "team-a", &format!("web-{number}"));
    }
    publish(&records, "team-b", "web");
    write(&records, address, listed(), Duration::from_secs(3));
    let written = times(&asked, &format!("PATCH {RECORDS}/team-b/podcaptures/web/status"));
    assert_eq!(written, 1, "{:?}", asked.lock().unwrap());
    let tried = times(&asked, &format!("POST {RECORDS}/team-a/"));
    assert!((1..=4).contains(&tried), "{tried}");
}

/// As [`fails_for_team_a`], and takes longer over it than anybody waits.
fn hangs_for_team_a(question: &str, body: Value) -> (u16, Value) {
    if question.contains("/team-a/") {
        thread::sleep(Duration::from_secs(30));
    }
    fails_for_team_a(question, body)
}

#[test]
fn a_server_that_hangs_for_one_namespace_is_written_to_for_the_others() {
    let (address, asked) = server(hangs_for_team_a);
    let records = ClusterRecords::new("node1", &Telemetry::default());
    publish(&records, "team-a", "web");
    publish(&records, "team-b", "web");
    write(&records, address, listed(), Duration::from_secs(3));
    assert_eq!(times(&asked, &format!("PATCH {RECORDS}/team-b/")), 1, "{:?}", asked.lock().unwrap());
}

/// Is a server of a version that cannot list records of a node.
fn is_old(question: &str, _: Value) -> (u16, Value) {
    assert_eq!(question, "GET /version");
    let version = json!({"major": "1", "minor": "30", "gitVersion": "v1.30.4", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
    (200, version)
}

#[test]
fn without_the_list_of_records_the_agent_is_not_ready_and_says_which_server_is_needed() {
    let (address, _) = server(is_old);
    let telemetry = Telemetry::default();
    let missing = || telemetry.missing().into_iter().find(|missing| missing.contains("records"));
    let records = ClusterRecords::new("node1", &telemetry);
    assert_eq!(missing(), None, "nobody has begun to write them");
    records.started();
    assert!(missing().unwrap().contains("not listed yet"));
    let failed = || Err(watcher::Error::InitialListFailed(error(400).unwrap_err()));
    write(&records, address, vec![Ok(Event::Init), failed()], Duration::from_secs(1));
    let told = missing().unwrap();
    assert!(told.contains("v1.30.4") && told.contains("v1.31"), "{told}");
    // What was there once can be written.
    let news = vec![Ok(Event::Init), failed(), Ok(Event::InitDone), failed()];
    write(&records, address, news, Duration::from_secs(1));
    assert_eq!(missing(), None);
}
