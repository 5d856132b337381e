//! The compiler with its real child, and with children that misbehave.

use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use capture_filter::{ChildCommand, Compiler, FilterError, compile};

const CHILD: &str = env!("CARGO_BIN_EXE_compile-filter");

fn compiler() -> Compiler {
    Compiler::with_child(ChildCommand { program: CHILD.into(), arguments: vec![] }).expect("threads")
}

/// A compiler whose child is a shell script, with the text on its standard input.
fn scripted(script: &str) -> Compiler {
    let arguments = vec!["-c".into(), script.into()];
    Compiler::with_child(ChildCommand { program: "/bin/sh".into(), arguments }).expect("threads")
}

fn attempt(what: &str) -> std::process::Output {
    Command::new(CHILD).arg(what).env_clear().output().expect("the child starts")
}

#[test]
fn the_child_gives_what_libpcap_gives_here() {
    let compiler = compiler();
    for text in [
        "",
        "tcp port 80 or udp port 53",
        "ip6 and not icmp6",
        "vlan 7 and host 10.0.0.1",
        "port http",
        "len <= 60",
    ] {
        let filter = compiler.compile("a", text).expect(text);
        assert_eq!(filter.expression(), text);
        assert_eq!(filter.classic(), &compile(text).expect(text), "{text}");
    }
}

#[test]
fn refusals_name_the_part_and_arrive_from_both_sides_of_the_pipe() {
    let compiler = compiler();
    let refusal = |text: &str| compiler.compile("a", text).expect_err(text).to_string();
    assert!(refusal("host www.example.org").contains("`www.example.org` is a name"));
    assert!(refusal("tcp and inbound").contains("`inbound` is not part of a packet"));
    assert!(refusal("ip6 protochain 6").contains("`protochain` needs a loop"));
    assert!(refusal("tcp port port").contains("syntax error"));
    assert!(refusal("port no-such-service").contains("no-such-service"));
    assert!(refusal("ether[0xfffff030:1] = 1").contains("0xfffff030"));
    assert!(refusal("tcp\0").contains("byte 0x00 at offset 3"));
    let long = format!("{} 1", "ip[0]+".repeat(700));
    assert!(refusal(&long).contains("4096 are allowed"), "{}", refusal(&long));
}

#[test]
fn names_that_reach_the_child_are_looked_up_nowhere() {
    // What the scan of words lets pass because it cannot know better.
    for text in ["ip proto no.such.protocol", "type nonesuch", "port nowhere.example.org"] {
        let started = Instant::now();
        let error = compiler().compile("a", text).expect_err(text);
        assert!(error.is_refusal(), "{text}: {error}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{text}: a lookup waits for five: {took:?}");
    }
}

#[test]
fn a_text_is_compiled_once() {
    // A child that cannot be asked a second time the same way: the directory is there then.
    let mark = std::env::temp_dir().join(format!("podtap-filter-once-{}", std::process::id()));
    let compiler = scripted(&format!("cat >/dev/null; mkdir {} && kill -SEGV $$", mark.display()));
    let first = compiler.compile("a", "tcp").expect_err("no answer");
    assert!(matches!(&first, FilterError::Exhausted { reason } if reason.contains("crashed")), "{first}");
    assert_eq!(compiler.compile("b", "tcp").expect_err("the same"), first);
    std::fs::remove_dir(&mark).expect("the child ran");
}

#[test]
fn a_compiler_that_cannot_start_is_no_refusal() {
    let compiler = Compiler::with_child(ChildCommand { program: "/no/such/file".into(), arguments: vec![] })
        .expect("threads");
    let error = compiler.compile("a", "tcp").expect_err("no child");
    assert!(!error.is_refusal(), "{error}");
}

/// What a child that fails the first time does the second time: `ret #1`.
const ANSWER: &str = r"printf '\0\10\0\0\0\6\0\0\0\1\0\0\0'";

#[test]
fn a_child_that_is_ended_from_outside_is_no_refusal_and_the_next_one_is_asked() {
    for (number, end) in ["kill -KILL $$", "kill -TERM $$", "exit 127"].into_iter().enumerate() {
        let mark = std::env::temp_dir().join(format!("podtap-filter-{}-{number}", std::process::id()));
        let mark = mark.display();
        let compiler =
            scripted(&format!("cat >/dev/null; if mkdir {mark}; then {end}; fi; rmdir {mark}; {ANSWER}"));
        let error = compiler.compile("a", "tcp").expect_err(end);
        assert!(!error.is_refusal(), "{end}: {error}");
        compiler.compile("b", "tcp").expect(end);
    }
}

#[test]
fn a_child_that_is_killed_for_its_cpu_time_is_a_refusal() {
    // The hard limit, which kills: a second later than the one that tells.
    let error = scripted("ulimit -t 2; while :; do :; done").compile("a", "tcp").expect_err("no answer");
    assert!(error.is_refusal() && error.to_string().contains("CPU time"), "{error}");
}

#[test]
fn a_child_that_hangs_is_killed_and_leaves_no_zombie() {
    let compiler = scripted("exec sleep 30");
    let started = Instant::now();
    let error = compiler.compile("a", "tcp").expect_err("no answer");
    assert!(error.to_string().contains("longer than 5 s") && !error.is_refusal(), "{error}");
    let took = started.elapsed();
    assert!(
        took > Duration::from_millis(4900) && took < Duration::from_secs(25),
        "not for as long as it wants: {took:?}"
    );
    assert!(no_child_is_left());
}

/// Whether no child of this process is left, zombies too, within 20 s. The tests share a process and go on starting
/// children: a zombie would stay, so one look that finds nothing is proof, and a second one might find another test's.
fn no_child_is_left() -> bool {
    let own = format!("\nPPid:\t{}\n", std::process::id());
    let none = || {
        std::fs::read_dir("/proc").expect("procfs").flatten().all(|entry| {
            !std::fs::read_to_string(entry.path().join("status")).unwrap_or_default().contains(&own)
        })
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if none() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_child_that_floods_or_lies_is_cut_off() {
    let flood = scripted("cat >/dev/null; exec cat /dev/zero").compile("a", "tcp").expect_err("no answer");
    assert!(flood.is_refusal(), "{flood}");
    // A program that jumps out of itself: kind 0, 8 bytes, `ja +7`.
    let lie = scripted(r"cat >/dev/null; printf '\0\10\0\0\0\5\0\0\0\7\0\0\0'")
        .compile("a", "tcp")
        .expect_err("refused");
    assert!(matches!(lie, FilterError::Invalid { .. }), "{lie}");
    let crash = scripted("cat >/dev/null; kill -SEGV $$").compile("a", "tcp").expect_err("no answer");
    assert!(crash.to_string().contains("crashed (signal 11)"), "{crash}");
}

/// `ret #1` for any text, but only after long for one that says so.
const SLOW: &str = r"case $(cat) in *9999*) exec sleep 30;; esac; printf '\0\10\0\0\0\6\0\0\0\1\0\0\0'";

#[test]
fn a_tenant_with_many_slow_texts_delays_no_other() {
    let compiler = scripted(SLOW);
    let (sender, receiver) = mpsc::channel();
    for number in 0..10 {
        let sender = sender.clone();
        compiler.submit("slow", &format!("port 9999 and len > {number}"), move |answer| {
            drop(sender.send(answer))
        });
    }
    for number in 0..20 {
        compiler.compile("other", &format!("port {number}")).expect("compiled");
    }
    assert!(receiver.try_recv().is_err(), "the slow ones take five seconds each");
    assert!(receiver.recv().expect("the first").is_err());
}

#[test]
fn four_children_work_at_once_and_one_a_tenant() {
    let meeting = std::env::temp_dir().join(format!("podtap-filter-meeting-{}", std::process::id()));
    std::fs::create_dir(&meeting).expect("a directory of its own");
    let at = meeting.display();
    // `len`: answers when four of them are there. `less`: only when no other of them is.
    let compiler = Arc::new(scripted(&format!(
        "case $(cat) in len*) mkdir {at}/$$; while [ $(ls {at} | wc -l) -lt 4 ]; do sleep 0.01; done;; \
         *) mkdir {at}/alone || exit 127; sleep 0.1; rmdir {at}/alone;; esac; {ANSWER}"
    )));
    let run = |tenants: &[&'static str], text: &str| {
        let threads: Vec<_> = tenants
            .iter()
            .enumerate()
            .map(|(number, &tenant)| {
                let (compiler, text) = (compiler.clone(), format!("{text} {number}"));
                std::thread::spawn(move || compiler.compile(tenant, &text).expect("compiled"))
            })
            .collect();
        threads.into_iter().for_each(|thread| drop(thread.join().expect("no panic")));
    };
    run(&["a", "b", "c", "d"], "len >");
    run(&["a", "a", "a"], "less");
    std::fs::remove_dir_all(&meeting).expect("what the children left");
}

#[test]
fn the_sandbox_allows_reading_and_little_else() {
    for refused in
        ["socket", "unix-socket", "exec", "write", "append", "thread", "signal", "secret", "memory"]
    {
        let output = attempt(refused);
        assert!(output.stdout.starts_with(b"refused"), "{refused}: {output:?}");
    }
    assert_eq!(attempt("services").stdout, b"allowed\n");
    assert!(!std::path::Path::new("/tmp/never-written").exists());
}

#[test]
fn the_sandbox_has_no_capabilities_and_no_way_back() {
    let output = attempt("status");
    let status = String::from_utf8(output.stdout).expect("text");
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    if rustix::process::geteuid().is_root() {
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    }
}

#[test]
fn the_sandbox_ends_a_busy_child_after_a_second() {
    use std::os::unix::process::ExitStatusExt;
    let started = Instant::now();
    let output = attempt("spin");
    assert_eq!(output.status.signal(), Some(24), "SIGXCPU");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn whoever_asked_may_panic() {
    let compiler = compiler();
    for number in 0..8 {
        compiler
            .submit("a", &format!("port {number}"), |_| panic!("what the asker does is not the compiler's"));
    }
    compiler.compile("b", "port 99").expect("the compiler goes on");
    compiler.compile("a", "port 99 or port 98").expect("for the same tenant too");
}
