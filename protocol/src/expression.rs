//! Condition expressions: the text that a condition-based campaign is written in, compiled to a short program.
//!
//! ```text
//! Vehicle.Speed > 90 and not Vehicle.Chassis.Brake.PedalPosition > 5
//! mean(Vehicle.Speed, 10s) - min(Vehicle.Speed, 10s) > 20
//! hysteresis(`EEC1.EngineSpeed` > 2200, `EEC1.EngineSpeed` < 2000) or rising(present(Vehicle.Speed, 5s))
//! ```
//!
//! | form | is | unknown while |
//! |---|---|---|
//! | `12.5`, `-3` | a number | never |
//! | `Vehicle.Speed`, `` `Message.Signal` `` | the signal's latest value, in the unit of its path | it was not seen |
//! | `min(S, 10s)`, `max`, `mean` | over the samples of the last 10 s, to a twentieth of that time; `ms`, `s`, `min` | there is none |
//! | `present(S)`, `present(S, 5s)` | was it seen ever, in the last 5 s? | never |
//! | `a + b`, `-`, `*`, `/` | arithmetic | an operand is, or a result is no finite number |
//! | `a > b`, `>=`, `<`, `<=`, `==`, `!=` | a comparison | an operand is |
//! | `a and b`, `a or b`, `not a` | three-valued logic: what is unknown counts only where it matters | |
//! | `rising(a)` | true where `a` is true and was not when it was evaluated before | never |
//! | `hysteresis(on, off)` | becomes true with `on` and false with `off` | never |
//!
//! `or` binds less than `and`, `and` less than `not`, that less than comparisons, those less than arithmetic.
//! An expression is never recursive: it is parsed with a stack of bounded depth and runs as at most
//! [`OPS_MAX`] steps on a stack of [`STACK_MAX`] numbers, whatever it says.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Characters in one expression at most.
pub const EXPRESSION_CHARS_MAX: usize = 2_048;
/// Steps of one program at most.
pub const OPS_MAX: usize = 128;
/// Numbers on the stack of a program at most, and operators that wait while it is parsed.
pub const STACK_MAX: usize = 32;
/// Windows of one program at most.
pub const WINDOWS_MAX: usize = 8;
/// Longest window and longest time of `present`, milliseconds: ten minutes.
pub const WINDOW_MS_MAX: u32 = 600_000;

/// A comparison of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// Arithmetic on two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

/// What a window gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The arithmetic mean of the samples.
    Mean,
}

/// A window over one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Which of [`Expression::signals`].
    pub signal: usize,
    /// What it gives.
    pub aggregate: Aggregate,
    /// How far it reaches back, milliseconds, 1 to [`WINDOW_MS_MAX`].
    pub duration_ms: u32,
}

/// One step of a program on a stack of numbers, in which 1 is true, 0 is false and NaN is unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Pushes a number.
    Number(f64),
    /// Pushes the latest value of one of [`Expression::signals`].
    Signal(usize),
    /// Pushes the value of one of [`Expression::windows`].
    Window(usize),
    /// Pushes whether a signal was seen within a time, milliseconds; `None`: ever.
    Present(usize, Option<u32>),
    /// Replaces two numbers by their comparison.
    Compare(Comparison),
    /// Replaces two numbers by a third.
    Arithmetic(Arithmetic),
    /// Changes the sign.
    Negate,
    /// Replaces two truth values.
    And,
    /// Replaces two truth values.
    Or,
    /// Turns a truth value around.
    Not,
    /// Replaces a truth value by whether it has just become true; remembers it in one of [`Expression::states`].
    Rising(usize),
    /// Replaces two truth values by a third that one of [`Expression::states`] holds.
    Hysteresis(usize),
}

/// A compiled expression.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expression {
    /// The program, in postfix order; its result is a truth value.
    pub ops: Vec<Op>,
    /// Names of the signals it looks at, as written, each once.
    pub signals: Vec<String>,
    /// The windows it looks at.
    pub windows: Vec<Window>,
    /// Truth values it remembers from one evaluation to the next.
    pub states: usize,
}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {what}")]
pub struct ExpressionError {
    /// Where, counted from 1.
    pub at: usize,
    /// What is wrong and what is expected.
    pub what: String,
}

impl Expression {
    /// Compiles a text.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.chars().count() > EXPRESSION_CHARS_MAX {
            return Err(error(0, format_args!("more than {EXPRESSION_CHARS_MAX} characters")));
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, ..Parser::default() };
        parser.run()?;
        Ok(parser.expression)
    }
}

fn error(at: usize, what: impl ToString) -> ExpressionError {
    ExpressionError { at: at + 1, what: what.to_string() }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    DurationMs(u32),
    Name(String),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 13] = ["<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ExpressionError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { break };
        let (token, len) = if first.is_ascii_digit() {
            number(at, rest)?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            (Token::Name(rest[..len].into()), len)
        } else if let Some(quoted) = rest.strip_prefix('`') {
            let len = quoted.find('`').ok_or_else(|| error(at, "a name in backquotes does not end"))?;
            (Token::Name(alloc::format!("`{}", &quoted[..len])), len + 2)
        } else {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or_else(|| error(at, format_args!("{first:?} means nothing here")))?;
            (Token::Symbol(symbol), symbol.len())
        };
        tokens.push((at, token));
        rest = &rest[len..];
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

fn number(at: usize, rest: &str) -> Result<(Token, usize), ExpressionError> {
    let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let value: f64 =
        rest[..digits].parse().map_err(|_| error(at, format_args!("{} is no number", &rest[..digits])))?;
    let unit = &rest[digits..];
    let len = unit.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(unit.len());
    let factor = match &unit[..len] {
        "" => return Ok((Token::Number(value), digits)),
        "ms" => 1.0,
        "s" => 1_000.0,
        "min" => 60_000.0,
        other => return Err(error(at, format_args!("unit {other:?}: expected ms, s or min"))),
    };
    let ms = value * factor;
    if (1.0..=f64::from(WINDOW_MS_MAX)).contains(&ms) {
        Ok((Token::DurationMs(ms as u32), digits + len))
    } else {
        Err(error(at, format_args!("a time must be from 1 to {WINDOW_MS_MAX} ms")))
    }
}

/// What a value is: only truth values can be combined by `and`, only numbers compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Truth,
}

/// What waits on the operator stack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pending {
    Op {
        op: Op,
        binds: u8,
    },
    Paren,
    /// A function's parenthesis: its operator, and the arguments it still expects after this one.
    Call {
        op: Op,
        more: u8,
    },
}

const BINDS_OR: u8 = 1;
const BINDS_AND: u8 = 2;
const BINDS_NOT: u8 = 3;
const BINDS_COMPARISON: u8 = 4;
const BINDS_SUM: u8 = 5;
const BINDS_PRODUCT: u8 = 6;
const BINDS_SIGN: u8 = 7;

fn binary(token: &Token) -> Option<(Op, u8)> {
    let compare = |comparison| Some((Op::Compare(comparison), BINDS_COMPARISON));
    match token {
        Token::Name(name) => match name.as_str() {
            "or" => Some((Op::Or, BINDS_OR)),
            "and" => Some((Op::And, BINDS_AND)),
            _ => None,
        },
        Token::Symbol(symbol) => match *symbol {
            "<" => compare(Comparison::Less),
            "<=" => compare(Comparison::LessOrEqual),
            ">" => compare(Comparison::Greater),
            ">=" => compare(Comparison::GreaterOrEqual),
            "==" => compare(Comparison::Equal),
            "!=" => compare(Comparison::NotEqual),
            "+" => Some((Op::Arithmetic(Arithmetic::Add), BINDS_SUM)),
            "-" => Some((Op::Arithmetic(Arithmetic::Subtract), BINDS_SUM)),
            "*" => Some((Op::Arithmetic(Arithmetic::Multiply), BINDS_PRODUCT)),
            "/" => Some((Op::Arithmetic(Arithmetic::Divide), BINDS_PRODUCT)),
            _ => None,
        },
        _ => None,
    }
}

#[derive(Default)]
struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    expression: Expression,
    pending: Vec<Pending>,
    kinds: Vec<Kind>,
}

/// Dijkstra's shunting yard: operators wait on a stack of bounded depth, operands become steps at once.
impl Parser {
    fn run(&mut self) -> Result<(), ExpressionError> {
        loop {
            self.operand()?;
            // Behind an operand: closing parentheses, then an operator, or the end.
            while self.take_symbol(")") {
                self.close()?;
            }
            let (at, token) = self.peek();
            if let Some((op, binds)) = binary(&token) {
                self.next += 1;
                self.reduce(at, binds)?;
                self.wait(at, Pending::Op { op, binds })?;
            } else if self.take_symbol(",") {
                self.comma(at)?;
            } else if token == Token::End {
                return self.finish(at);
            } else {
                return Err(error(at, "expected an operator, `)` or the end"));
            }
        }
    }

    fn finish(&mut self, at: usize) -> Result<(), ExpressionError> {
        self.reduce(at, 0)?;
        match (self.pending.last(), self.kinds.as_slice()) {
            (Some(_), _) => Err(error(at, "a parenthesis is not closed")),
            (None, [Kind::Truth]) => Ok(()),
            (None, _) => Err(error(at, "it is a number, expected something that is true or false")),
        }
    }

    fn peek(&self) -> (usize, Token) {
        // The last token is `End` and is never passed.
        self.tokens.get(self.next).cloned().unwrap_or((0, Token::End))
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek().1, Token::Symbol(found) if found == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), ExpressionError> {
        let (at, _) = self.peek();
        if self.take_symbol(symbol) { Ok(()) } else { Err(error(at, format_args!("expected `{symbol}`"))) }
    }

    /// One operand with the signs, `not`s and parentheses before it.
    fn operand(&mut self) -> Result<(), ExpressionError> {
        loop {
            let (at, token) = self.peek();
            self.next += 1;
            match token {
                Token::Symbol("(") => self.wait(at, Pending::Paren)?,
                Token::Symbol("-") => self.wait(at, Pending::Op { op: Op::Negate, binds: BINDS_SIGN })?,
                Token::Number(value) => return self.emit(at, Op::Number(value)),
                Token::Name(name) if name == "not" => {
                    self.wait(at, Pending::Op { op: Op::Not, binds: BINDS_NOT })?;
                }
                Token::Name(name) => {
                    if self.name(at, &name)? {
                        return Ok(());
                    }
                }
                _ => return Err(error(at, "expected a number, a signal or a function")),
            }
        }
    }

    /// A signal or a function; false where a function's argument is an expression that follows.
    fn name(&mut self, at: usize, name: &str) -> Result<bool, ExpressionError> {
        let is_call = matches!(self.peek().1, Token::Symbol("("));
        let aggregate = match name {
            "min" => Some(Aggregate::Min),
            "max" => Some(Aggregate::Max),
            "mean" => Some(Aggregate::Mean),
            _ => None,
        };
        let state = self.expression.states;
        match name {
            "rising" if is_call => self.call(at, Op::Rising(state), 0),
            "hysteresis" if is_call => self.call(at, Op::Hysteresis(state), 1),
            "present" if is_call => self.present(at).map(|()| true),
            "and" | "or" => Err(error(at, format_args!("`{name}` needs something before it"))),
            _ => match aggregate {
                Some(aggregate) if is_call => self.window(at, aggregate).map(|()| true),
                _ if is_call => Err(error(
                    at,
                    format_args!(
                        "{name} is no function: expected min, max, mean, present, rising or hysteresis"
                    ),
                )),
                _ => {
                    let signal = self.signal(name);
                    self.emit(at, Op::Signal(signal)).map(|()| true)
                }
            },
        }
    }

    fn call(&mut self, at: usize, op: Op, more: u8) -> Result<bool, ExpressionError> {
        self.expect("(")?;
        self.expression.states += 1;
        self.wait(at, Pending::Call { op, more }).map(|()| false)
    }

    fn signal_argument(&mut self) -> Result<usize, ExpressionError> {
        self.expect("(")?;
        let (at, token) = self.peek();
        let Token::Name(name) = token else { return Err(error(at, "expected the name of a signal")) };
        self.next += 1;
        Ok(self.signal(&name))
    }

    fn duration(&mut self) -> Result<u32, ExpressionError> {
        let (at, token) = self.peek();
        let Token::DurationMs(ms) = token else { return Err(error(at, "expected a time such as 10s")) };
        self.next += 1;
        Ok(ms)
    }

    fn present(&mut self, at: usize) -> Result<(), ExpressionError> {
        let signal = self.signal_argument()?;
        let within_ms = if self.take_symbol(",") { Some(self.duration()?) } else { None };
        self.expect(")")?;
        self.emit(at, Op::Present(signal, within_ms))
    }

    fn window(&mut self, at: usize, aggregate: Aggregate) -> Result<(), ExpressionError> {
        let signal = self.signal_argument()?;
        self.expect(",")?;
        let window = Window { signal, aggregate, duration_ms: self.duration()? };
        self.expect(")")?;
        let windows = &mut self.expression.windows;
        let number = windows.iter().position(|known| *known == window).unwrap_or(windows.len());
        if number == WINDOWS_MAX {
            return Err(error(at, format_args!("more than {WINDOWS_MAX} windows")));
        }
        if number == windows.len() {
            windows.push(window);
        }
        self.emit(at, Op::Window(number))
    }

    fn signal(&mut self, name: &str) -> usize {
        let name = name.strip_prefix('`').unwrap_or(name);
        let signals = &mut self.expression.signals;
        signals.iter().position(|known| known == name).unwrap_or_else(|| {
            signals.push(name.into());
            signals.len() - 1
        })
    }

    /// A closing parenthesis was passed.
    fn close(&mut self) -> Result<(), ExpressionError> {
        let (at, _) = self.tokens[self.next - 1];
        self.reduce(at, 0)?;
        match self.pending.pop() {
            Some(Pending::Paren) => Ok(()),
            Some(Pending::Call { op, more: 0 }) => self.emit(at, op),
            Some(Pending::Call { .. }) => Err(error(at, "hysteresis needs a second condition")),
            _ => Err(error(at, "`)` closes nothing")),
        }
    }

    fn comma(&mut self, at: usize) -> Result<(), ExpressionError> {
        self.reduce(at, 0)?;
        match self.pending.last_mut() {
            Some(Pending::Call { more, .. }) if *more > 0 => {
                *more -= 1;
                Ok(())
            }
            _ => Err(error(at, "`,` separates nothing here")),
        }
    }

    /// Turns waiting operators into steps that bind at least as much as `binds`. Comparisons do not chain.
    fn reduce(&mut self, at: usize, binds: u8) -> Result<(), ExpressionError> {
        while let Some(Pending::Op { op, binds: waiting }) = self.pending.last().copied() {
            if waiting < binds {
                break;
            }
            self.pending.pop();
            self.emit(at, op)?;
        }
        Ok(())
    }

    fn wait(&mut self, at: usize, pending: Pending) -> Result<(), ExpressionError> {
        if self.pending.len() == STACK_MAX {
            return Err(error(at, format_args!("more than {STACK_MAX} operators wait for their operands")));
        }
        self.pending.push(pending);
        Ok(())
    }

    fn emit(&mut self, at: usize, op: Op) -> Result<(), ExpressionError> {
        use Kind::{Number, Truth};
        let (takes, gives): (&[Kind], Kind) = match op {
            Op::Number(_) | Op::Signal(_) | Op::Window(_) => (&[], Number),
            Op::Present(..) => (&[], Truth),
            Op::Negate => (&[Number], Number),
            Op::Arithmetic(_) => (&[Number, Number], Number),
            Op::Compare(_) => (&[Number, Number], Truth),
            Op::And | Op::Or | Op::Hysteresis(_) => (&[Truth, Truth], Truth),
            Op::Not | Op::Rising(_) => (&[Truth], Truth),
        };
        let from = self.kinds.len().checked_sub(takes.len());
        if from.is_none_or(|from| self.kinds[from..] != *takes) {
            return Err(error(
                at,
                match takes.first() {
                    Some(Truth) => {
                        "expected something that is true or false before this, such as a comparison"
                    }
                    _ => "expected numbers before this; comparisons do not chain",
                },
            ));
        }
        self.kinds.truncate(self.kinds.len() - takes.len());
        if self.kinds.len() == STACK_MAX || self.expression.ops.len() == OPS_MAX {
            return Err(error(at, format_args!("more than {OPS_MAX} steps or {STACK_MAX} values at once")));
        }
        self.kinds.push(gives);
        self.expression.ops.push(op);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ops(text: &str) -> Vec<Op> {
        Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).ops
    }

    fn refused(text: &str) -> (usize, String) {
        let error = Expression::parse(text).unwrap_err();
        (error.at, error.what)
    }

    #[test]
    fn precedence_is_or_and_not_comparison_sum_product_sign() {
        use Op::{And, Compare, Negate, Not, Number, Or, Signal};
        let greater = Compare(Comparison::Greater);
        assert_eq!(
            ops("A > 1 or not B > 2 and C + 2 * 3 > -4"),
            [
                Signal(0),
                Number(1.0),
                greater,
                Signal(1),
                Number(2.0),
                greater,
                Not,
                Signal(2),
                Number(2.0),
                Number(3.0),
                Op::Arithmetic(Arithmetic::Multiply),
                Op::Arithmetic(Arithmetic::Add),
                Number(4.0),
                Negate,
                greater,
                And,
                Or,
            ]
        );
        assert_eq!(ops("(A - 1) - 1 > 0"), ops("A - 1 - 1 > 0"), "arithmetic is left-associative");
    }

    #[test]
    fn functions_name_signals_windows_and_states() {
        let text = "hysteresis(mean(`EEC1.Speed`, 10s) > 9, min(`EEC1.Speed`, 1min) < 8) or rising(present(A.B, 500ms))";
        let expression = Expression::parse(text).unwrap();
        assert_eq!(expression.signals, ["EEC1.Speed", "A.B"]);
        let window = |aggregate, duration_ms| Window { signal: 0, aggregate, duration_ms };
        assert_eq!(expression.windows, [window(Aggregate::Mean, 10_000), window(Aggregate::Min, 60_000)]);
        assert_eq!(expression.states, 2);
        let tail = &expression.ops[expression.ops.len() - 4..];
        assert_eq!(
            tail,
            [Op::Hysteresis(0), Op::Present(1, Some(500)), Op::Rising(1), Op::Or],
            "postfix, each function behind its arguments"
        );
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let cases = [
            ("", 1, "expected a number"),
            ("Vehicle.Speed", 14, "it is a number"),
            ("A > 1 and B", 12, "true or false"),
            ("1 < A < 3", 10, "comparisons do not chain"),
            ("(A > 1", 7, "not closed"),
            ("A > 1)", 6, "closes nothing"),
            ("A > 1, B > 2", 6, "separates nothing"),
            ("hysteresis(A > 1)", 17, "second condition"),
            ("median(A, 10s) > 1", 1, "no function"),
            ("mean(A, 20min) > 1", 9, "600000 ms"),
            ("mean(A, 20h) > 1", 9, "ms, s or min"),
            ("A > 1 B", 7, "expected an operator"),
            ("A # 1", 3, "means nothing"),
            ("`A > 1", 1, "does not end"),
            ("and A > 1", 1, "needs something before"),
        ];
        for (text, at, what) in cases {
            let (got_at, got) = refused(text);
            assert!(got_at == at && got.contains(what), "{text:?}: at {got_at}: {got}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        assert!(refused(&"(".repeat(100)).1.contains("32 operators"));
        assert!(refused(&alloc::format!("{} A > 1", "not ".repeat(100))).1.contains("32 operators"));
        let many = alloc::vec!["A > 1"; 50].join(" and ");
        assert!(refused(&many).1.contains("128 steps"));
        assert!(refused(&" ".repeat(3_000)).1.contains("2048 characters"));
        let windows: Vec<_> = (1..=9).map(|s| alloc::format!("min(A, {s}s) > 1")).collect();
        assert!(refused(&windows.join(" or ")).1.contains("8 windows"));
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused(text in "[A-Ca-z0-9 .,()<>=!+*/`-]{0,80}") {
            if let Ok(expression) = Expression::parse(&text) {
                prop_assert!(!expression.ops.is_empty() && expression.ops.len() <= OPS_MAX);
            }
        }

        #[test]
        fn any_characters_never_panic(text in any::<String>()) {
            let _ = Expression::parse(&text);
        }
    }
}
