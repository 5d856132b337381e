//! A loader that is disturbed: the kernel gives its check of a program up when a signal comes in between.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use crate::harness::{loader, modes, settings, turn};

extern "C" fn nothing(_: libc::c_int) {}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_signal_in_the_middle_of_loading_costs_no_capture() {
    const TAPS: usize = 30;
    let _turn = turn();
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
    for mode in modes() {
        let load = || loader().load(None, &settings(), 64 << 10, mode);
        // One signal for each load or so, however slow the machine is: there is time to try again.
        let begun = Instant::now();
        load().unwrap();
        let pause = begun.elapsed();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // SAFETY: takes no pointers.
            let own = unsafe { libc::pthread_self() };
            scope.spawn({
                let over = &over;
                move || {
                    while !over.load(Ordering::Relaxed) {
                        // SAFETY: the thread is there until the scope ends.
                        unsafe { libc::pthread_kill(own, libc::SIGUSR1) };
                        thread::sleep(pause);
                    }
                }
            });
            let failed: Vec<String> =
                (0..TAPS).filter_map(|_| load().err()).map(|error| error.to_string()).collect();
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{mode:?}: {} of {TAPS}: {}", failed.len(), failed[0]);
        });
    }
}
