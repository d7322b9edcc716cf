//! The answer's side of HTTP/1.1, taken apart as bytes arrive.
//!
//! Why not hyper, which the rest of the program uses: a body's pieces go there through a channel to another task, and
//! at one piece per token that costs more than all else together (`host/docs/load-generator.md` has figures). Only what
//! an answer to a POST needs is here; the head is parsed by hyper's own parser.

use memchr::memchr;

/// Longest head: hyper's limit is of the same order.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Most header fields.
const MAX_FIELDS: usize = 100;

/// The answer is no HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

/// What of the answer comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body.
    Length(u64),
    /// A body that ends with the connection.
    UntilClose,
    /// A chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Fields after the last chunk.
    Trailers,
    Done,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    /// What could not be used yet: a part of the head, or of a line.
    carry: Vec<u8>,
    /// HTTP status; 0 until the head is there.
    pub(super) status: u16,
    /// Whether the head says `text/event-stream`.
    pub(super) is_event_stream: bool,
    /// Whether another request may follow on the connection.
    pub(super) keep_alive: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { state: State::Head, carry: Vec::new(), status: 0, is_event_stream: false, keep_alive: false }
    }
}

impl Reader {
    /// Whether the answer is complete.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The connection ended. Whether the answer is complete by that.
    pub(super) fn is_done_at_close(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// Takes what has arrived and hands on the pieces of the body.
    pub(super) fn feed<E: From<Malformed>>(
        &mut self,
        mut bytes: &[u8],
        mut piece: impl FnMut(&Self, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            match self.state {
                State::Head => bytes = self.take_head(bytes)?,
                State::Length(left) | State::Chunk(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (body, rest) = bytes.split_at(here);
                    bytes = rest;
                    let left = left - here as u64;
                    self.state = match self.state {
                        State::Length(_) if left == 0 => State::Done,
                        State::Length(_) => State::Length(left),
                        _ if left == 0 => State::ChunkEnd,
                        _ => State::Chunk(left),
                    };
                    piece(self, body)?;
                }
                State::UntilClose => {
                    piece(self, bytes)?;
                    return Ok(());
                }
                State::Size | State::ChunkEnd | State::Trailers => bytes = self.take_line(bytes)?,
                // A server that goes on talking after the answer is not to be trusted with another request.
                State::Done => {
                    self.keep_alive = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns what follows the line, or nothing if the line's end is not there.
    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.carry.extend_from_slice(bytes);
            if self.carry.len() > MAX_HEAD_BYTES {
                return Err(Malformed("a line of the body's frame does not end".to_owned()));
            }
            return Ok(&[]);
        };
        let (head, tail) = bytes.split_at(end);
        let next = if self.carry.is_empty() {
            self.line(head)?
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(head);
            let next = self.line(&line)?;
            line.clear();
            self.carry = line;
            next
        };
        self.state = next;
        Ok(tail.get(1..).unwrap_or_default())
    }

    fn line(&self, line: &[u8]) -> Result<State, Malformed> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::Size => match chunk_size(line) {
                Some(0) => Ok(State::Trailers),
                Some(size) => Ok(State::Chunk(size)),
                None => Err(Malformed(format!("`{}` is no size of a chunk", start_of(line)))),
            },
            State::ChunkEnd if line.is_empty() => Ok(State::Size),
            State::ChunkEnd => Err(Malformed("a chunk is longer than its size says".to_owned())),
            _ if line.is_empty() => Ok(State::Done),
            _ => Ok(State::Trailers),
        }
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.carry.len();
        self.carry.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.carry) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.carry.len() <= MAX_HEAD_BYTES => return Ok(&[]),
            Ok(httparse::Status::Partial) => return Err(Malformed("the head does not end".to_owned())),
            Err(e) => return Err(Malformed(format!("`{}`: {e}", start_of(&self.carry)))),
        };
        self.status = response.code.unwrap_or_default();
        let mut chunked = false;
        let mut content_length = None;
        self.keep_alive = response.version == Some(1);
        for field in response.headers.iter() {
            let value = field.value.trim_ascii();
            if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            } else if field.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
                content_length = Some(length.ok_or_else(|| Malformed("the content-length is no number".to_owned()))?);
            } else if field.name.eq_ignore_ascii_case("connection") {
                let value = value.to_ascii_lowercase();
                self.keep_alive = if self.keep_alive { value != b"close" } else { value == b"keep-alive" };
            } else if field.name.eq_ignore_ascii_case("content-type") {
                self.is_event_stream = value.to_ascii_lowercase().starts_with(b"text/event-stream");
            }
        }
        let used = length - before.min(length);
        self.carry.clear();
        self.state = match (self.status, chunked, content_length) {
            // 100 Continue and the like precede the answer.
            (100..200, ..) => State::Head,
            (204 | 304, ..) => State::Done,
            (_, true, _) => State::Size,
            (_, false, Some(0)) => State::Done,
            (_, false, Some(length)) => State::Length(length),
            (_, false, None) => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
        Ok(bytes.get(used..).unwrap_or_default())
    }
}

/// Hexadecimal; what follows `;` is an extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii();
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    digits.iter().try_fold(0, |size, digit| Some(size * 16 + u64::from(char::from(*digit).to_digit(16)?)))
}

fn start_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..bytes.len().min(60)).unwrap_or_default()).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<(Reader, Vec<u8>), Malformed> {
        let (mut reader, mut body) = (Reader::default(), Vec::new());
        for piece in pieces {
            reader.feed(piece, |_, bytes| {
                body.extend_from_slice(bytes);
                Ok::<(), Malformed>(())
            })?;
        }
        Ok((reader, body))
    }

    const CHUNKED: &[u8] =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n";

    #[test]
    fn a_chunked_body_is_put_together() {
        let (reader, body) = read(&[CHUNKED]).unwrap();
        assert_eq!((reader.status, body.as_slice()), (200, &b"hello world"[..]));
        assert!(reader.is_done() && reader.keep_alive && reader.is_event_stream);
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let (reader, body) = read(&[b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nab", b"c"]).unwrap();
        assert_eq!((reader.status, body.as_slice(), reader.is_done()), (404, &b"abc"[..], true));
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let (reader, body) = read(&[b"HTTP/1.0 200 OK\r\n\r\nab", b"c"]).unwrap();
        assert_eq!(body, b"abc");
        assert!(!reader.is_done() && reader.is_done_at_close() && !reader.keep_alive);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_not_complete() {
        for cut in 0..CHUNKED.len() - 1 {
            let (reader, _) = read(&[&CHUNKED[..cut]]).unwrap();
            assert!(!reader.is_done() && !reader.is_done_at_close(), "{cut}");
        }
    }

    #[test]
    fn a_connection_is_kept_only_where_both_allow_it() {
        for (head, kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", false),
        ] {
            assert_eq!(read(&[head.as_bytes()]).unwrap().0.keep_alive, kept, "{head}");
        }
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ] {
            assert!(read(&[text.as_bytes()]).is_err(), "{text}");
        }
        let endless = vec![b'a'; MAX_HEAD_BYTES + 1];
        assert!(read(&[b"HTTP/1.1 200 OK\r\nX: ", &endless]).is_err());
    }

    proptest! {
        #[test]
        fn cuts_between_pieces_change_nothing(cuts in prop::collection::vec(0_usize..300, 0..10)) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c < CHUNKED.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&CHUNKED[from..cut]);
                from = cut;
            }
            pieces.push(&CHUNKED[from..]);
            let (reader, body) = read(&pieces).unwrap();
            prop_assert!(reader.is_done() && reader.keep_alive);
            prop_assert_eq!(body, b"hello world");
        }

        #[test]
        fn no_bytes_make_it_panic(
            head in prop::sample::select(vec![&b""[..], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 "]),
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
        ) {
            let pieces: Vec<&[u8]> = std::iter::once(head).chain(pieces.iter().map(Vec::as_slice)).collect();
            let _ = read(&pieces);
        }
    }
}
