//! Requests as HAR 1.2 (<http://www.softwareishard.com/blog/har-12-spec/>), without what was sent or came as content.

use crate::model::{Observation, Request};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The text of a HAR file of a visit. Times are those of the visit's beginning and of the browser's clock since.
#[must_use]
pub fn har(seen: &Observation) -> Vec<u8> {
    let entries: Vec<Value> = seen.requests.iter().map(|request| entry(request, seen.began_ms)).collect();
    let page = json!({
        "startedDateTime": moment(seen.began_ms as f64),
        "id": "page",
        "title": seen.title,
        "pageTimings": {"onContentLoad": -1, "onLoad": seen.load_ms.unwrap_or(-1.0)},
    });
    let log = json!({
        "version": "1.2",
        "creator": {"name": "fvm", "version": env!("CARGO_PKG_VERSION")},
        "browser": {"name": seen.browser, "version": ""},
        "pages": [page],
        "entries": entries,
        "comment": seen.cut.join("; "),
    });
    json!({"log": log}).to_string().into_bytes()
}

fn entry(request: &Request, began_ms: u64) -> Value {
    let took_ms = request.took_ms.unwrap_or(-1.0);
    let mut entry = json!({
        "pageref": "page",
        "startedDateTime": moment(began_ms as f64 + request.began_ms),
        "time": took_ms.max(0.0),
        "request": {
            "method": request.method, "url": request.url, "httpVersion": "", "cookies": [],
            "headers": headers(&request.request_headers), "queryString": query(&request.url), "headersSize": -1, "bodySize": -1,
        },
        "response": {
            "status": request.status.unwrap_or(0), "statusText": "", "httpVersion": "", "cookies": [],
            "headers": headers(&request.response_headers),
            "content": {"size": request.bytes, "mimeType": request.mime.as_deref().unwrap_or_default()},
            "redirectURL": redirect(request), "headersSize": -1, "bodySize": request.bytes,
        },
        "cache": {},
        "timings": {"send": 0, "wait": took_ms, "receive": 0},
        "_resourceType": request.kind,
    });
    if let Value::Object(fields) = &mut entry {
        let more =
            [("_error", &request.error), ("_initiator", &request.initiator), ("serverIPAddress", &request.remote)];
        fields.extend(more.into_iter().filter_map(|(key, value)| Some((key.into(), value.clone()?.into()))));
    }
    entry
}

fn headers(all: &BTreeMap<String, String>) -> Vec<Value> {
    all.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn query(url: &str) -> Vec<Value> {
    let Ok(url) = url::Url::parse(url) else { return Vec::new() };
    url.query_pairs().take(100).map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn redirect(request: &Request) -> &str {
    let of = |name: &str| request.response_headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    if matches!(request.status, Some(300..=399)) { of("location").map_or("", |(_, to)| to) } else { "" }
}

/// ISO 8601, in UTC.
fn moment(unix_ms: f64) -> String {
    let ms = unix_ms.clamp(0.0, 253_402_300_799_999.0) as u64;
    let (days, in_day_ms) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (in_day_ms / 3_600_000, in_day_ms / 60_000 % 60, in_day_ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar: eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_what_date_says() {
        for (ms, want) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789.0, "2000-02-29T12:34:56.789Z"),
            (1_735_689_599_999.0, "2024-12-31T23:59:59.999Z"),
            (4_102_444_800_000.0, "2100-01-01T00:00:00.000Z"),
            (-5.0, "1970-01-01T00:00:00.000Z"),
            (1e300, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(moment(ms), want);
        }
    }

    #[test]
    fn a_har_has_what_readers_ask_for() {
        let request = Request {
            url: "https://a/x?k=v&k2=%22".into(),
            method: "GET".into(),
            kind: "Document".into(),
            took_ms: Some(5.0),
            status: Some(302),
            response_headers: BTreeMap::from([("Location".into(), "https://b/".into())]),
            ..Request::default()
        };
        let failed = Request { error: Some("net::ERR_FAILED".into()), ..Request::default() };
        let seen = Observation { requests: vec![request, failed], title: "</script>".into(), ..Observation::default() };
        let read: Value = serde_json::from_slice(&har(&seen)).unwrap();
        assert_eq!(read["log"]["version"], "1.2");
        let [first, second] = read["log"]["entries"].as_array().unwrap().as_slice() else { panic!() };
        assert_eq!(first["request"]["queryString"][1], json!({"name": "k2", "value": "\""}));
        assert_eq!(first["response"]["redirectURL"], "https://b/");
        assert_eq!((&second["_error"], &second["response"]["status"]), (&json!("net::ERR_FAILED"), &json!(0)));
        for entry in [first, second] {
            for key in ["startedDateTime", "time", "request", "response", "cache", "timings"] {
                assert!(entry.get(key).is_some(), "{key}");
            }
        }
    }
}
