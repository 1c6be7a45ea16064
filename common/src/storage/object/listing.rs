//! A page of a listing as GCS and Azure write it: keys, sizes, tags, and where to go on.
//!
//! Read here and not by object_store, which gives up a whole page for one key that its paths cannot express (`a//b`, a
//! control character). Such keys are counted, folder markers are passed on as S3 lists them. It must never drop an
//! entry without counting it.

use crate::storage::{ListPage, ObjectMeta, wire};
use object_store::path::Path;
use quick_xml::{
    Reader,
    escape::resolve_predefined_entity,
    events::{BytesRef, BytesStart, Event},
};

/// A page, and the token of the next one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// In the order of the store.
    pub(super) page: ListPage,
    /// Where to go on; `None` on the last page.
    pub(super) next: Option<String>,
    /// The first key that cannot be used.
    pub(super) odd: Option<String>,
}

/// Why a page is unreadable.
#[derive(Debug, thiserror::Error)]
#[error("the listing is no XML that can be read: {0}")]
pub(super) struct Unreadable(String);

/// An entry while it is read.
#[derive(Debug, Default)]
struct Entry {
    key: String,
    encoded: bool,
    size: u64,
    etag: Option<String>,
    modified: Option<u64>,
    folder: bool,
}

/// Whether object_store can ask for the object of this key.
pub(super) fn path_of(key: &str) -> Option<Path> {
    Path::parse(key).ok().filter(|path| path.as_ref() == key)
}

/// Reads a page; keys up to `after` are left out, for stores that begin a listing at its beginning.
pub(super) fn parse(xml: &[u8], after: Option<&str>) -> Result<Listed, Unreadable> {
    let mut reader = Reader::from_reader(xml);
    let (mut listed, mut open, mut text, mut entry) =
        (Listed::default(), Vec::<String>::new(), String::new(), None::<Entry>);
    let mut buffer = Vec::new();
    let broken = |error: String| Unreadable(error.chars().take(200).collect());
    loop {
        match reader.read_event_into(&mut buffer).map_err(|error| broken(error.to_string()))? {
            Event::Start(tag) => {
                begin(&tag, &mut entry);
                open.push(name(&tag));
                text.clear();
            }
            Event::Empty(tag) if matches!(tag.local_name().as_ref(), b"Contents" | b"Blob") => {
                return Err(broken("an entry is empty".into()));
            }
            Event::Text(part) => {
                text.push_str(&part.decode().map_err(|error| broken(error.to_string()))?);
            }
            Event::CData(part) => {
                text.push_str(&part.decode().map_err(|error| broken(error.to_string()))?);
            }
            Event::GeneralRef(reference) => text.push(character(&reference).ok_or_else(|| {
                broken(format!("`&{};` is no character", String::from_utf8_lossy(&reference)))
            })?),
            Event::End(_) => {
                end(&mut listed, &open, std::mem::take(&mut text), &mut entry, after);
                open.pop();
            }
            Event::Eof if open.is_empty() => return Ok(listed),
            Event::Eof => return Err(broken("it ends in the middle".into())),
            _ => {}
        }
        buffer.clear();
    }
}

fn name(tag: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(tag.local_name().as_ref()).into_owned()
}

fn character(reference: &BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(character);
    }
    let name = reference.decode().ok()?;
    resolve_predefined_entity(&name)?.chars().next()
}

fn begin(tag: &BytesStart<'_>, entry: &mut Option<Entry>) {
    match tag.local_name().as_ref() {
        b"Contents" | b"Blob" => *entry = Some(Entry::default()),
        b"Name" => {
            if let Some(entry) = entry {
                entry.encoded = tag.attributes().flatten().any(|attribute| {
                    attribute.key.as_ref() == b"Encoded" && attribute.value.as_ref() == b"true"
                });
            }
        }
        _ => {}
    }
}

fn end(listed: &mut Listed, open: &[String], text: String, entry: &mut Option<Entry>, after: Option<&str>) {
    let this = open.last().map_or("", String::as_str);
    let Some(reading) = entry else {
        if open.len() == 2 && matches!(this, "NextContinuationToken" | "NextMarker") && !text.is_empty() {
            listed.next = Some(text);
        }
        return;
    };
    match this {
        "Contents" | "Blob" => {
            if let Some(done) = entry.take() {
                take(listed, done, after);
            }
        }
        "Key" | "Name" => reading.key = text,
        "Size" | "Content-Length" => reading.size = text.trim().parse().unwrap_or(0),
        "ETag" | "Etag" => reading.etag = Some(text.trim_matches('"').to_owned()),
        "LastModified" | "Last-Modified" => reading.modified = wire::seconds(text.trim()),
        "ResourceType" => reading.folder = text == "directory",
        _ => {}
    }
}

fn take(listed: &mut Listed, entry: Entry, after: Option<&str>) {
    // With hierarchical namespaces folders are entries too; they have no bytes.
    if entry.folder || after.is_some_and(|after| !entry.encoded && entry.key.as_str() <= after) {
        return;
    }
    // A folder marker, as consoles make them, is listed as on S3 and asked for by nobody.
    let usable = entry.key.strip_suffix('/').unwrap_or(&entry.key);
    if entry.encoded || usable.is_empty() || path_of(usable).is_none() {
        listed.page.unlistable += 1;
        listed.odd.get_or_insert(entry.key);
        return;
    }
    let Entry { key, size, etag, modified, .. } = entry;
    listed.page.objects.push(ObjectMeta { key, size, etag, modified });
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCS: &str = "<?xml version='1.0'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>\
        <Name>b</Name><Prefix>x</Prefix><NextContinuationToken>to&amp;ken</NextContinuationToken>\
        <Contents><Key>a b &amp; &#x1F408;.jpg</Key><ETag>\"e1\"</ETag><Size>7</Size>\
        <LastModified>2014-01-27T22:48:29.250Z</LastModified><Owner><ID>i</ID></Owner></Contents>\
        <Contents><Key> lead </Key><Size>1</Size></Contents>\
        <Contents><Key>a//b.jpg</Key><Size>1</Size></Contents>\
        <Contents><Key>x/../y</Key><Size>1</Size></Contents>\
        <Contents><Key>c&#1;.jpg</Key><Size>1</Size></Contents>\
        <Contents><Key>dir/</Key><Size>0</Size></Contents></ListBucketResult>";

    const AZURE: &str = "\u{feff}<?xml version=\"1.0\"?><EnumerationResults ContainerName=\"c\"><Prefix>p</Prefix>\
        <Blobs><Blob><Name>a.jpg</Name><Properties><Etag>0x1</Etag>\
        <Last-Modified>Mon, 27 Jan 2014 22:48:29 GMT</Last-Modified><Content-Length>5</Content-Length></Properties></Blob>\
        <Blob><Name>d</Name><Properties><Content-Length>0</Content-Length><ResourceType>directory</ResourceType>\
        </Properties></Blob><Blob><Name Encoded=\"true\">odd%EF%BF%BE</Name><Properties/></Blob>\
        <Blob><Name>b.jpg</Name><Properties><Content-Length>6</Content-Length></Properties></Blob></Blobs>\
        <NextMarker /></EnumerationResults>";

    fn keys(listed: &Listed) -> Vec<(&str, u64)> {
        listed.page.objects.iter().map(|object| (object.key.as_str(), object.size)).collect()
    }

    #[test]
    fn good_keys_of_a_page_outlive_the_odd_ones() {
        let listed = parse(GCS.as_bytes(), None).unwrap();
        assert_eq!(keys(&listed), [("a b & 🐈.jpg", 7), (" lead ", 1), ("dir/", 0)]);
        assert_eq!(listed.page.objects[0].etag.as_deref(), Some("e1"));
        assert_eq!(listed.page.objects[0].modified, Some(1_390_862_909));
        assert_eq!((listed.page.unlistable, listed.odd.as_deref()), (3, Some("a//b.jpg")));
        assert_eq!(listed.next.as_deref(), Some("to&ken"));
    }

    #[test]
    fn folders_are_no_blobs_and_encoded_names_are_counted() {
        let listed = parse(AZURE.trim_start_matches('\u{feff}').as_bytes(), None).unwrap();
        assert_eq!(keys(&listed), [("a.jpg", 5), ("b.jpg", 6)]);
        assert_eq!(listed.page.objects[0].modified, Some(1_390_862_909));
        assert_eq!((listed.page.unlistable, listed.next), (1, None));
        let rest = parse(AZURE.as_bytes(), Some("a.jpg")).unwrap();
        assert_eq!(keys(&rest), [("b.jpg", 6)]);
    }

    #[test]
    fn half_a_page_is_no_page() {
        for bad in [&GCS[..GCS.len() - 30], "<a><b></a>", "<a>&nope;</a>", "<a><Contents/></a>"] {
            assert!(parse(bad.as_bytes(), None).is_err(), "{bad}");
        }
    }
}
