//! Grabs in the plain form in which nearly all callers write them, read by hand, since every refusal of a stampede begins here.
//! Whatever is written in another way, right or wrong, is left to the reader that knows all of JSON and names what is wrong.
//!
//! Invariant: what is read here the other reader would have read, and as the same.

use qiang_engine::limits::{ITEMS_MAX, QUANTITY_MAX};
use qiang_engine::order::{Item, Items};
use qiang_engine::{OrderId, Pin, PromotionId};

use super::{BATCH_GRABS_MAX, ChannelName, GrabBody, ItemsBody};

/// The grab that `body` is.
pub(super) fn read_grab(body: &[u8]) -> Option<GrabBody> {
    let mut reader = Reader::of(body)?;
    let grab = reader.grab()?;
    reader.end()?;
    Some(grab)
}

/// The grabs of the batch that `body` is.
pub(super) fn read_batch(body: &[u8]) -> Option<Vec<GrabBody>> {
    let mut reader = Reader::of(body)?;
    let mut grabs = Vec::with_capacity(BATCH_GRABS_MAX.min(body.len() / GRAB_BYTES_MIN));
    reader.take("{")?;
    reader.take("\"grabs\"")?;
    reader.take(":")?;
    reader.list(|reader| {
        grabs.push(reader.grab()?);
        (grabs.len() <= BATCH_GRABS_MAX).then_some(())
    })?;
    reader.take("}")?;
    reader.end()?;
    Some(grabs)
}

/// Bytes of the shortest grab there can be, its ids of one byte each.
const GRAB_BYTES_MIN: usize =
    br#"{"order_id":"o","pin":"p","ip":"::","channel":"qq","items":[{"promotion_id":"P","quantity":1}]}"#.len();

/// Digits of the greatest quantity.
const DIGITS_MAX: usize = QUANTITY_MAX.ilog10() as usize + 1;

/// What is left to be read. Each step is `None` where the form is not plain.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let rest = str::from_utf8(body).ok()?;
        Some(Reader { rest })
    }

    fn grab(&mut self) -> Option<GrabBody> {
        let (mut order_id, mut pin, mut ip, mut channel, mut items) =
            (None, None, None, None, None);
        self.object(|reader| {
            if reader.member("\"order_id\"") {
                once(&mut order_id, reader.id(OrderId::at_start_of))
            } else if reader.member("\"pin\"") {
                once(&mut pin, reader.id(Pin::at_start_of))
            } else if reader.member("\"ip\"") {
                once(&mut ip, reader.word()?.parse().ok())
            } else if reader.member("\"channel\"") {
                once(&mut channel, ChannelName::of(reader.word()?))
            } else if reader.member("\"items\"") {
                once(&mut items, reader.items())
            } else {
                None
            }
        })?;
        Some(GrabBody {
            order_id: order_id?,
            pin: pin?,
            ip: ip?,
            channel: channel?,
            items: items?,
        })
    }

    fn items(&mut self) -> Option<ItemsBody> {
        let mut items = Items::new();
        self.list(|reader| {
            items.push(reader.item()?);
            (items.len() <= ITEMS_MAX).then_some(())
        })?;
        Some(ItemsBody(items))
    }

    fn item(&mut self) -> Option<Item> {
        let (mut promotion_id, mut quantity) = (None, None);
        self.object(|reader| {
            if reader.member("\"promotion_id\"") {
                once(&mut promotion_id, reader.id(PromotionId::at_start_of))
            } else if reader.member("\"quantity\"") {
                once(&mut quantity, reader.quantity())
            } else {
                None
            }
        })?;
        Some(Item {
            promotion_id: promotion_id?,
            quantity: quantity?,
        })
    }

    /// An object with members; `read` takes each.
    fn object(&mut self, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take("{")?;
        loop {
            self.skip_space();
            read(self)?;
            if self.take(",").is_none() {
                return self.take("}");
            }
        }
    }

    /// A list that is not empty; `read` takes each element.
    fn list(&mut self, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take("[")?;
        loop {
            read(self)?;
            if self.take(",").is_none() {
                return self.take("]");
            }
        }
    }

    /// Whether this name is what is next, and after it the value of a member.
    #[inline]
    fn member(&mut self, name: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(name) else {
            return false;
        };
        let mut value = Reader { rest };
        let is_member = value.take(":").is_some();
        if is_member {
            *self = value;
        }
        is_member
    }

    /// A text that is an id. An escape, or what JSON does not allow in a text, is no part of one.
    #[inline]
    fn id<T>(&mut self, at_start_of: impl FnOnce(&'a str) -> Option<(T, &'a str)>) -> Option<T> {
        self.take("\"")?;
        let (id, rest) = at_start_of(self.rest)?;
        self.rest = rest.strip_prefix('"')?;
        Some(id)
    }

    /// A text that is an address or a channel, up to the next quotation mark. One that has an escape, or what JSON does not allow in a
    /// text, is neither, whatever else it holds.
    #[inline]
    fn word(&mut self) -> Option<&'a str> {
        self.take("\"")?;
        let length = self.rest.bytes().position(|byte| byte == b'"')?;
        let (word, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest.strip_prefix('"')?;
        Some(word)
    }

    /// A whole number from 1 to [`QUANTITY_MAX`], in digits alone.
    fn quantity(&mut self) -> Option<u32> {
        self.skip_space();
        let is_digit = |byte: &u8| byte.is_ascii_digit();
        let digits = self.rest.bytes().take_while(is_digit).take(DIGITS_MAX + 1);
        let (number, length) = digits.fold((0, 0), |(number, length), digit| {
            (10 * number + u64::from(digit - b'0'), length + 1)
        });
        if self.rest.starts_with('0') || !(1..=QUANTITY_MAX).contains(&number) {
            return None;
        }
        self.rest = self.rest.get(length..)?;
        u32::try_from(number).ok()
    }

    /// This text, and the space before it.
    #[inline]
    fn take(&mut self, text: &str) -> Option<()> {
        let rest = self.rest.strip_prefix(text).or_else(|| {
            self.skip_space();
            self.rest.strip_prefix(text)
        });
        self.rest = rest?;
        Some(())
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let spaces = self.rest.bytes().take_while(is_space).count();
        self.rest = &self.rest[spaces..];
    }

    /// The end: nothing follows.
    fn end(&mut self) -> Option<()> {
        self.skip_space();
        self.rest.is_empty().then_some(())
    }
}

/// Puts a member in its place, where none was before.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = value;
    place.is_some().then_some(())
}
