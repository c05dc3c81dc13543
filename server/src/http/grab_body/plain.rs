//! Grabs in the plain form in which nearly all callers write them, read by hand, since every refusal of a stampede begins here.
//! Whatever is written in another way, right or wrong, is left to the reader that knows all of JSON and names what is wrong.
//!
//! Invariant: what is read here the other reader would have read, and as the same.

use memchr::memchr;
use qiang_engine::limits::{ITEMS_MAX, QUANTITY_MAX};
use qiang_engine::order::{Item, Items};
use qiang_engine::{OrderId, Pin, PromotionId};

use super::{BATCH_GRABS_MAX, ChannelName, GrabBody, ItemsBody};

/// The grab that `body` is.
pub(super) fn read_grab(body: &[u8]) -> Option<GrabBody> {
    let mut reader = Reader::of(body)?;
    let grab = reader.grab()?;
    reader.end(grab)
}

/// The grabs of the batch that `body` is.
pub(super) fn read_batch(body: &[u8]) -> Option<Vec<GrabBody>> {
    let mut reader = Reader::of(body)?;
    let mut grabs = Vec::with_capacity(BATCH_GRABS_MAX.min(body.len() / GRAB_BYTES_MIN));
    reader.take(b'{')?;
    if reader.text()? != "grabs" {
        return None;
    }
    reader.take(b':')?;
    reader.list(|reader| {
        grabs.push(reader.grab()?);
        (grabs.len() <= BATCH_GRABS_MAX).then_some(())
    })?;
    reader.take(b'}')?;
    reader.end(grabs)
}

/// Bytes of the shortest grab there can be, its ids of one byte each.
const GRAB_BYTES_MIN: usize =
    br#"{"order_id":"o","pin":"p","ip":"::","channel":"qq","items":[{"promotion_id":"P","quantity":1}]}"#.len();

/// Digits of the greatest quantity.
const DIGITS_MAX: usize = QUANTITY_MAX.ilog10() as usize + 1;

/// What is left to be read. Each step is `None` where the form is not plain.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(body).ok()?;
        Some(Reader { text, at: 0 })
    }

    fn grab(&mut self) -> Option<GrabBody> {
        let (mut order_id, mut pin, mut ip, mut channel, mut items) =
            (None, None, None, None, None);
        self.object(|reader, member| match member {
            "order_id" => once(&mut order_id, OrderId::new(reader.text()?).ok()),
            "pin" => once(&mut pin, Pin::new(reader.text()?).ok()),
            "ip" => once(&mut ip, reader.text()?.parse().ok()),
            "channel" => once(&mut channel, ChannelName::of(reader.text()?)),
            "items" => once(&mut items, reader.items()),
            _ => None,
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
        self.object(|reader, member| match member {
            "promotion_id" => once(&mut promotion_id, PromotionId::new(reader.text()?).ok()),
            "quantity" => once(&mut quantity, reader.quantity()),
            _ => None,
        })?;
        Some(Item {
            promotion_id: promotion_id?,
            quantity: quantity?,
        })
    }

    /// An object with members; `read` takes the value of each.
    fn object(&mut self, mut read: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        loop {
            let member = self.text()?;
            self.take(b':')?;
            read(self, member)?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    /// A list that is not empty; `read` takes each element.
    fn list(&mut self, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        loop {
            read(self)?;
            if self.take(b',').is_none() {
                return self.take(b']');
            }
        }
    }

    /// A text, up to the next quotation mark. One that has an escape, or what JSON does not allow in a text, is neither a name nor an id nor
    /// an address, whatever else it holds.
    fn text(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let rest = self.text.get(self.at..)?;
        let length = memchr(b'"', rest.as_bytes())?;
        self.at += length + 1;
        rest.get(..length)
    }

    /// A whole number from 1 to [`QUANTITY_MAX`], in digits alone.
    fn quantity(&mut self) -> Option<u32> {
        self.skip_space();
        let rest = &self.text.as_bytes()[self.at..];
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let digits = rest.iter().take_while(is_digit).take(DIGITS_MAX + 1);
        let (number, length) = digits.fold((0, 0), |(number, length), digit| {
            (10 * number + u64::from(digit - b'0'), length + 1)
        });
        if rest.first() == Some(&b'0') || !(1..=QUANTITY_MAX).contains(&number) {
            return None;
        }
        self.at += length;
        u32::try_from(number).ok()
    }

    /// This byte, and the space before it.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        if self.text.as_bytes().get(self.at) != Some(&byte) {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    /// `read`, if nothing follows.
    fn end<T>(mut self, read: T) -> Option<T> {
        self.skip_space();
        (self.at == self.text.len()).then_some(read)
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
