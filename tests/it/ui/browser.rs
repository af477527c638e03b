//! A browser: keeps the cookie of the session, and sends forms as browsers do.

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    BufferQueue, StartTag, TagToken, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, redirect};

/// A browser on one host.
#[derive(Debug, Clone)]
pub struct Browser {
    base: String,
    http: Client,
    /// `name=value` of the session's cookie.
    pub cookie: Option<String>,
}

/// A page.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A start tag: its name, and the names and values of its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub name: String,
    pub attributes: Vec<(String, String)>,
}

impl Browser {
    /// Opens a browser at a host, such as `http://127.0.0.1:8080`.
    pub fn open(base: &str) -> Self {
        let http = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { base: base.to_owned(), http, cookie: None }
    }

    /// Signs in with an API key.
    pub async fn signed_in(base: &str, key: &str) -> Self {
        let mut browser = Self::open(base);
        let page = browser.sign_in(key).await;
        assert_eq!(page.status, 303, "{}", page.text);
        browser
    }

    /// Submits the page to sign in, and keeps the cookie if it sets one.
    pub async fn sign_in(&mut self, key: &str) -> Page {
        let page = self.post("/ui/login", &[("key", key), ("next", "/ui/messages")]).await;
        self.keep_cookie(&page);
        page
    }

    /// Keeps the cookie that a page sets, as a browser does.
    pub fn keep_cookie(&mut self, page: &Page) {
        if let Some(cookie) = page.headers.get("set-cookie") {
            self.cookie = cookie.to_str().unwrap().split(';').next().map(str::to_owned);
        }
    }

    /// Builds a request with the cookie.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Page {
        Page::to(self.request(Method::GET, path)).await
    }

    /// Loads a page that must exist.
    pub async fn page(&self, path: &str) -> Page {
        let page = self.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        page
    }

    /// Submits a form of a page of the dashboard.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        Page::to(self.form(path, fields).header("sec-fetch-site", "same-origin").header("origin", &self.base)).await
    }

    /// Submits a form that must lead to another page, and returns the path of that page.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let page = self.post(path, fields).await;
        assert_eq!(page.status, 303, "{path}: {}", page.text);
        page.location()
    }

    /// Builds the request of a form, without the headers that say where it comes from.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.request(Method::POST, path).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
    }
}

impl Page {
    pub async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = String::from_utf8_lossy(&response.bytes().await.expect("a body")).into_owned();
        assert!(status < 500, "{status} {text}");
        Self { status, headers, text }
    }

    pub fn location(&self) -> String {
        self.header("location").to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Fails unless the page shows each of these texts.
    pub fn shows(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.text.contains(text), "{text:?} is missing: {}", self.text);
        }
    }

    /// Returns all start tags, as a browser's parser finds them.
    pub fn tags(&self) -> Vec<Tag> {
        let (tokenizer, input) = (Tokenizer::new(Tags::default(), TokenizerOpts::default()), BufferQueue::default());
        input.push_back(StrTendril::from(self.text.as_str()));
        let _ = tokenizer.feed(&input);
        tokenizer.end();
        tokenizer.sink.0.into_inner()
    }
}

#[derive(Default)]
struct Tags(Mutex<Vec<Tag>>);

impl TokenSink for Tags {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        if let TagToken(tag) = token
            && tag.kind == StartTag
        {
            let attributes = tag.attrs.iter().map(|one| (one.name.local.to_string(), one.value.to_string()));
            self.0.lock().push(Tag { name: tag.name.to_string(), attributes: attributes.collect() });
        }
        TokenSinkResult::Continue
    }
}
