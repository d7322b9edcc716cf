//! Server-sent events, taken apart as bytes arrive, without copying where an event lies in one piece.
//!
//! After "Server-sent events" of the HTML standard, section 9.2.6: lines end with LF, CR LF or CR; an empty line ends an
//! event; `data` fields of one event are joined by LF. Fields other than `data` and `event` mean nothing here.

use memchr::memchr2;

/// Events longer than this are a mistake: the longest are usage reports with log probabilities.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// The stream is no event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

/// Keeps what of an event has arrived.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    /// `data` of an event whose end has not arrived.
    data: Vec<u8>,
    has_data: bool,
    is_error: bool,
    /// The last byte was a CR, so an LF that follows belongs to it.
    after_cr: bool,
    /// The first line, which may begin with a byte order mark, is over.
    started: bool,
}

impl Parser {
    /// Takes what has arrived and hands on the data of each event that is complete, and whether its type is `error`.
    /// The callback ends parsing with an error of its own.
    pub(super) fn feed<E: From<Malformed>>(
        &mut self,
        mut bytes: &[u8],
        mut event: impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if self.after_cr {
                match bytes.split_first() {
                    None => return Ok(()),
                    Some((b'\n', rest)) => bytes = rest,
                    Some(_) => {}
                }
                self.after_cr = false;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                    return Err(Malformed(format!("an event of more than {MAX_EVENT_BYTES} bytes")).into());
                }
                return Ok(());
            };
            let (head, tail) = bytes.split_at(end);
            let (ending, rest) = tail.split_at(1);
            self.after_cr = ending == b"\r";
            bytes = rest;
            if self.line.is_empty() {
                let head = self.unmarked(head);
                // An event of one line, wholly here: the usual case, without a copy.
                if let (false, false, Some(data), [b'\n', ..]) = (self.has_data, self.after_cr, data_of(head), bytes) {
                    let is_error = std::mem::take(&mut self.is_error);
                    bytes = bytes.get(1..).unwrap_or_default();
                    event(data, is_error)?;
                    continue;
                }
                self.take_line(head, &mut event)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                let unmarked = self.unmarked(&line);
                self.take_line(unmarked, &mut event)?;
                // Keeps the allocation.
                line.clear();
                self.line = line;
            }
        }
    }

    /// A whole line without the byte order mark that the first one may have. It may arrive in pieces like all else.
    fn unmarked<'l>(&mut self, line: &'l [u8]) -> &'l [u8] {
        let is_first = !std::mem::replace(&mut self.started, true);
        line.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(line)
    }

    fn take_line<E: From<Malformed>>(
        &mut self,
        line: &[u8],
        event: &mut impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        if line.is_empty() {
            let is_error = std::mem::take(&mut self.is_error);
            if std::mem::take(&mut self.has_data) {
                let mut data = std::mem::take(&mut self.data);
                let result = event(&data, is_error);
                data.clear();
                self.data = data;
                result?;
            }
        } else if let Some(data) = data_of(line) {
            if self.has_data {
                self.data.push(b'\n');
            }
            if self.data.len() + data.len() > MAX_EVENT_BYTES {
                return Err(Malformed(format!("an event of more than {MAX_EVENT_BYTES} bytes")).into());
            }
            self.has_data = true;
            self.data.extend_from_slice(data);
        } else if let Some(kind) = line.strip_prefix(b"event:") {
            self.is_error = kind.trim_ascii() == b"error";
        } else if !is_field(line) {
            let start: String = String::from_utf8_lossy(line).chars().take(60).collect();
            return Err(Malformed(format!("`{start}` is no line of an event stream")).into());
        }
        Ok(())
    }

    /// Whether the stream may end here: no event is open.
    pub(super) fn is_between_events(&self) -> bool {
        self.line.is_empty() && !self.has_data
    }
}

fn data_of(line: &[u8]) -> Option<&[u8]> {
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

/// A comment, or a field whose name is known. The standard ignores all else; a server that sends anything else here
/// sends no event stream, and its tokens would be lost without a word.
fn is_field(line: &[u8]) -> bool {
    line.starts_with(b":")
        || [&b"id"[..], b"retry", b"event", b"data"]
            .iter()
            .any(|name| line.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with(b":")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pieces: &[&[u8]]) -> Result<Vec<(Vec<u8>, bool)>, Malformed> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece, |data, error| {
                events.push((data.to_vec(), error));
                Ok::<(), Malformed>(())
            })?;
        }
        Ok(events)
    }

    fn texts(stream: &str) -> Vec<String> {
        parse(&[stream.as_bytes()]).unwrap().into_iter().map(|(d, _)| String::from_utf8(d).unwrap()).collect()
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        assert_eq!(texts("data: a\n\ndata:b\r\n\r\ndata:  c\r\rdata: d"), ["a", "b", " c"]);
    }

    #[test]
    fn comments_and_other_fields_mean_nothing() {
        assert_eq!(texts("\u{feff}: ping\n\nid: 7\nretry: 3\ndata: a\n\n: ping\n\n"), ["a"]);
        let in_pieces = parse(&[b"\xef", b"\xbb\xbf", b"data: a\n\n"]).unwrap();
        assert_eq!(in_pieces, [(b"a".to_vec(), false)], "also of a mark that arrives in pieces");
    }

    #[test]
    fn data_of_several_lines_is_one_event() {
        assert_eq!(texts("data: a\ndata:\ndata: b\n\ndata\n\n"), ["a\n\nb"]);
    }

    #[test]
    fn an_event_of_type_error_is_told_apart() {
        let events = parse(&[b"event: error\ndata: x\n\ndata: y\n\nevent: error\r\ndata: z\r\n\r\n"]).unwrap();
        assert_eq!(events.iter().map(|(_, error)| *error).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_is_no_event_stream_is_refused() {
        for stream in ["<html>\n", "{\"error\": 1}\n", "dataX: a\n\n"] {
            assert!(parse(&[stream.as_bytes()]).is_err(), "{stream}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let line = vec![b'x'; MAX_EVENT_BYTES / 2 + 1];
        assert!(parse(&[b"data:", &line, &line]).is_err());
        assert!(parse(&[b"data:", &line, b"\ndata:", &line, b"\n"]).is_err());
    }

    #[test]
    fn the_end_of_the_stream_within_an_event_is_seen() {
        for (stream, between) in [("data: a\n\n", true), ("data: a\n", false), ("data: a", false), ("", true)] {
            let mut parser = Parser::default();
            parser.feed(stream.as_bytes(), |_, _| Ok::<(), Malformed>(())).unwrap();
            assert_eq!(parser.is_between_events(), between, "{stream:?}");
        }
    }

    /// The standard's algorithm, on the whole stream at once.
    fn slowly(stream: &str) -> Vec<String> {
        let text = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut complete: Vec<&str> = text.split('\n').collect();
        complete.pop();
        let (mut events, mut data): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
        for line in complete {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push(data.join("\n"));
                }
                data.clear();
            } else if let Some(rest) = line.strip_prefix("data:") {
                data.push(rest.strip_prefix(' ').unwrap_or(rest));
            }
        }
        events
    }

    proptest! {
        #[test]
        fn cuts_between_pieces_change_nothing(
            parts in prop::collection::vec(
                prop::sample::select(vec!["data: ", "data:", "x", "{\"a\":1}", "\n", "\r\n", "\r", "\n\n", ": c\n", "é"]),
                0..40,
            ),
            cuts in prop::collection::vec(0_usize..200, 0..8),
        ) {
            // Lines begin with `data:` or are empty; anything else is refused, which is tested above.
            let mut stream = String::new();
            for part in parts {
                let at_line = stream.is_empty() || stream.ends_with(['\n', '\r']);
                if at_line && !part.starts_with(['d', '\n', '\r', ':']) {
                    stream.push_str("data: ");
                }
                if at_line || !part.starts_with(": c") {
                    stream.push_str(part);
                }
            }
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c < bytes.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            let events: Vec<String> =
                parse(&pieces).unwrap().into_iter().map(|(d, _)| String::from_utf8(d).unwrap()).collect();
            prop_assert_eq!(events, slowly(&stream));
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = parse(&pieces);
        }
    }
}
