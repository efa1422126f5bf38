//! The requests of a page as a tree: each below the one that asked for it.

use crate::model::Request;
use crate::report::escape::{html, html_cut};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Deeper ones stand at this depth.
const DEPTH_MAX: usize = 12;

/// The tree, as nested lists.
pub fn tree(requests: &[Request]) -> String {
    let parents = parents(requests);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); requests.len()];
    let mut roots = Vec::new();
    for (n, parent) in parents.iter().enumerate() {
        match parent.and_then(|parent| children.get_mut(parent)) {
            Some(list) => list.push(n),
            None => roots.push(n),
        }
    }
    let mut out = String::from("<ul class=\"tree\">");
    // (request, depth), with a stack of ours: a page chooses how deep this is.
    let mut open = 0;
    let mut stack: Vec<(usize, usize)> = roots.into_iter().rev().map(|n| (n, 0)).collect();
    while let Some((n, depth)) = stack.pop() {
        let shown = depth.min(DEPTH_MAX);
        while open > shown {
            out += "</ul>";
            open -= 1;
        }
        while open < shown {
            out += "<ul>";
            open += 1;
        }
        if let Some(request) = requests.get(n) {
            item(&mut out, request);
        }
        for &child in children.get(n).into_iter().flatten().rev() {
            stack.push((child, depth + 1));
        }
    }
    out + &"</ul>".repeat(open + 1)
}

/// Of each, the one before it that its initiator names; so there are no circles.
fn parents(requests: &[Request]) -> Vec<Option<usize>> {
    let mut by_url: HashMap<&str, usize> = HashMap::new();
    requests
        .iter()
        .enumerate()
        .map(|(n, request)| {
            let parent = request.initiator.as_deref().and_then(|initiator| by_url.get(initiator).copied());
            by_url.entry(request.url.as_str()).or_insert(n);
            parent
        })
        .collect()
}

fn item(out: &mut String, request: &Request) {
    let status = match (request.status, &request.error) {
        (_, Some(error)) => format!("<span class=\"bad\">{}</span>", html_cut(error, 100)),
        (Some(status), None) => format!("<span class=\"{}\">{status}</span>", if status >= 400 { "bad" } else { "ok" }),
        (None, None) => "<span class=\"bad\">no answer</span>".into(),
    };
    let _infallible = writeln!(
        out,
        "<li><span class=\"kind\">{}</span> {status} {} <code>{}</code> <small>{} {} {}</small></li>",
        html_cut(&request.kind, 20),
        html_cut(&request.method, 12),
        html_cut(&request.url, 300),
        html_cut(request.mime.as_deref().unwrap_or_default(), 60),
        super::page::size(request.bytes),
        html(&request.took_ms.map_or(String::new(), |ms| format!("{ms:.0} ms"))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, initiator: Option<&str>) -> Request {
        Request { url: url.into(), initiator: initiator.map(str::to_owned), status: Some(200), ..Request::default() }
    }

    #[test]
    fn each_is_below_the_one_that_asked_for_it_and_circles_end() {
        let all = [
            request("a", Some("b")),
            request("b", Some("a")),
            request("c", Some("b")),
            request("c", Some("c")),
            request("d", Some("gone")),
        ];
        assert_eq!(parents(&all), [None, Some(0), Some(1), Some(2), None]);
        let text = tree(&all);
        assert_eq!(text.matches("<ul").count(), text.matches("</ul>").count());
        assert_eq!(text.matches("<li>").count(), 5);
        assert!(text.contains("<code>a</code> <small>  0 B </small></li>\n") || text.contains("<code>a</code>"));
    }

    #[test]
    fn a_chain_of_any_length_is_a_tree_of_bounded_depth() {
        let all: Vec<Request> = (0..2_000).map(|n: i32| request(&n.to_string(), Some(&(n - 1).to_string()))).collect();
        let text = tree(&all);
        assert_eq!(text.matches("<li>").count(), 2_000);
        assert_eq!(text.matches("<ul").count(), DEPTH_MAX + 1);
        assert_eq!(text.matches("</ul>").count(), DEPTH_MAX + 1);
    }
}
