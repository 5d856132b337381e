//! libpcap's compiler, in this process.

use pcap::{BpfProgram, Capture, Linktype};

use crate::classic::ClassicInsn;
use crate::{ClassicProgram, FilterError, text};

/// Compiles an expression for Ethernet, optimized, as tcpdump does; an empty one matches everything.
///
/// The text is hostile input to a C library: in a privileged process, take [`crate::Compiler`] instead, which runs this in
/// a child that can do no harm.
///
/// # Errors
/// Any refusal of [`FilterError`].
pub fn compile(expression: &str) -> Result<ClassicProgram, FilterError> {
    ClassicProgram::new(instructions(&libpcap(expression)?)?)
}

/// libpcap's instructions, not checked.
pub(crate) fn instructions(program: &BpfProgram) -> Result<Vec<ClassicInsn>, FilterError> {
    program.get_instructions().iter().map(instruction).collect()
}

/// libpcap's own program, whose interpreter is what [`crate::Filter`]s are compared with.
///
/// # Errors
/// As [`compile`], apart from what is wrong with the program.
pub fn libpcap(expression: &str) -> Result<BpfProgram, FilterError> {
    text::check(expression)?;
    let syntax = |error: pcap::Error| match error {
        pcap::Error::PcapError(message) => refusal(&message),
        other => FilterError::Syntax { message: other.to_string() },
    };
    Capture::dead(Linktype::ETHERNET).map_err(syntax)?.compile(expression, true).map_err(syntax)
}

/// libpcap's message as one of ours, where ours says more.
fn refusal(message: &str) -> FilterError {
    let quoted = |prefix: &str| message.strip_prefix(prefix)?.strip_suffix('\'').map(str::to_owned);
    let name = quoted("unknown host '")
        .or_else(|| quoted("unknown ether host '"))
        .or_else(|| quoted("unknown network '"));
    match name {
        Some(name) => FilterError::Name { name },
        None => FilterError::Syntax { message: message.to_owned() },
    }
}

/// The crate keeps an instruction's fields to itself, but prints them.
fn instruction(insn: &pcap::BpfInstruction) -> Result<ClassicInsn, FilterError> {
    let printed = insn.to_string();
    let mut fields = printed.split(' ');
    let mut parsed = || {
        let code = fields.next()?.parse().ok()?;
        let jt = fields.next()?.parse().ok()?;
        let jf = fields.next()?.parse().ok()?;
        let k = fields.next()?.parse().ok()?;
        Some(ClassicInsn { code, jt, jf, k })
    };
    parsed().ok_or_else(|| FilterError::Unavailable {
        reason: format!("libpcap's instruction reads `{printed}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classic::ClassicInsn as Insn;

    #[test]
    fn an_everyday_expression_compiles_as_by_tcpdump() {
        let expected = "\
(000) ldh      [12]
(001) jeq      #0x800           jt 2\tjf 5
(002) ldb      [23]
(003) jeq      #0x1             jt 4\tjf 5
(004) ret      #65535
(005) ret      #0
";
        assert_eq!(compile("icmp").unwrap().to_string(), expected);
        let everything = [Insn { code: 0x06, jt: 0, jf: 0, k: 65535 }];
        assert_eq!(compile("").unwrap().instructions(), everything);
        assert_eq!(compile(" ").unwrap().instructions(), everything);
    }

    #[test]
    fn what_libpcap_does_not_understand_is_said_in_its_words() {
        for (expression, word) in [
            ("tcp port 99999", "99999"),
            ("tcp and", "syntax error"),
            ("((((", "syntax error"),
            ("host 10.0.0.1 or", "syntax error"),
            ("port no-such-service", "no-such-service"),
            ("ip[0] / 0 = 1", "division by zero"),
            ("ip[0] << 40 = 1", "shift"),
        ] {
            match compile(expression) {
                Err(FilterError::Syntax { message }) => {
                    assert!(message.contains(word), "{expression}: {message}")
                }
                other => panic!("{expression}: {other:?}"),
            }
        }
    }

    #[test]
    fn offsets_into_the_kernels_own_data_are_refused() {
        match compile("ether[0xfffff004:2] = 1") {
            Err(FilterError::Ancillary { offset: 0xffff_f004, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
