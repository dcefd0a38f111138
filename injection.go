package injecttoken

import (
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"

	"github.com/caddytoken/inject-token/tokensource"
)

// HeaderInjection is a header field that holds the token.
type HeaderInjection struct {
	// The name of the field.
	Field string `json:"field"`

	// Its value, in which `{token}` stands for the token. Default: `Bearer
	// {token}` of the field Authorization, `{token}` of others.
	Format string `json:"format,omitempty"`
}

const tokenPlaceholder = "{token}"

// framing are the fields that belong to a connection or frame a message.
var framing = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func isFraming(field string) bool {
	return slices.Contains(framing, textproto.CanonicalMIMEHeaderKey(field))
}

func (h HeaderInjection) check() *mistake {
	switch {
	case !httpguts.ValidHeaderFieldName(h.Field):
		return wrong("header", "%q is not the name of a header field", h.Field)
	case isFraming(h.Field):
		return wrong("header", "%s belongs to the connection, so a token in it would not arrive; use another field, such as Authorization", h.Field)
	case !strings.Contains(h.format(), tokenPlaceholder):
		return wrong("header", "the format of %s does not hold {token}", h.Field)
	case strings.ContainsAny(strings.ReplaceAll(h.format(), tokenPlaceholder, ""), "{}"):
		return wrong("header", "the format of %s can hold {token} and no other braces", h.Field)
	case !httpguts.ValidHeaderFieldValue(h.format()):
		return wrong("header", "the format of %s holds control characters", h.Field)
	}
	return nil
}

func (h HeaderInjection) format() string {
	switch {
	case h.Format != "":
		return h.Format
	case textproto.CanonicalMIMEHeaderKey(h.Field) == "Authorization":
		return "Bearer " + tokenPlaceholder
	}
	return tokenPlaceholder
}

// injection is where and how a token stands in a request. It is made once and
// then only read, by any number of requests.
type injection struct {
	fields  []string // canonical names
	formats []string // one for each of fields
	params  []string
	formed  atomic.Pointer[formed]
}

// formed is the header values of one token: made once, they cost a request
// nothing. The slices are shared between requests and never written to.
type formed struct {
	token  *tokensource.Token
	values [][]string
}

func newInjection(headers []HeaderInjection, params []string) (*injection, *mistake) {
	if len(headers) == 0 && len(params) == 0 {
		headers = []HeaderInjection{{Field: "Authorization"}}
	}
	in := &injection{params: params}
	for _, h := range headers {
		if m := h.check(); m != nil {
			return nil, m
		}
		field := textproto.CanonicalMIMEHeaderKey(h.Field)
		if slices.Contains(in.fields, field) {
			return nil, wrong("header", "%s is set twice", field)
		}
		in.fields = append(in.fields, field)
		in.formats = append(in.formats, h.format())
	}
	for i, p := range params {
		if p == "" {
			return nil, wrong("query", "the name of the parameter is empty")
		}
		if slices.Contains(params[:i], p) {
			return nil, wrong("query", "%s is set twice", p)
		}
	}
	return in, nil
}

// present says whether the caller has put a value of its own anywhere that the
// token would go.
func (in *injection) present(req *http.Request) bool {
	for field := range req.Header {
		if in.isField(field) {
			return true
		}
	}
	for field := range req.Trailer {
		if in.isField(field) {
			return true
		}
	}
	return len(in.params) > 0 && withoutParams(req.URL.RawQuery, in.params) != req.URL.RawQuery
}

// isField says whether a field is one of ours, also where only a server that
// takes - and _ for the same would think so.
func (in *injection) isField(name string) bool {
	for _, field := range in.fields {
		if len(name) == len(field) && (name == field || strings.EqualFold(strings.ReplaceAll(name, "_", "-"), field)) {
			return true
		}
	}
	return false
}

// clean returns a copy of the request with a header, a URL and a body of its
// own, and nothing of the caller's in the places of the token. The trailer
// stays the same map: reverse_proxy fills it when the body has ended.
func (in *injection) clean(req *http.Request) *http.Request {
	out := copyOf(req)
	out.Header = make(http.Header, len(req.Header)+len(in.fields))
	for field, values := range req.Header {
		if !in.isField(field) {
			out.Header[field] = values
		}
	}
	if len(in.params) > 0 {
		out.URL.RawQuery = withoutParams(req.URL.RawQuery, in.params)
	}
	if len(in.fields) > 0 && req.Trailer != nil && req.Body != nil && req.Body != http.NoBody {
		in.cleanTrailer(out.Trailer)
		out.Body = &trailerBody{ReadCloser: req.Body, trailer: out.Trailer, injection: in}
	}
	return out
}

// put puts the token into a clean request.
func (in *injection) put(req *http.Request, token *tokensource.Token) {
	for i, values := range in.valuesOf(token) {
		req.Header[in.fields[i]] = values
	}
	for _, name := range in.params {
		if req.URL.RawQuery != "" {
			req.URL.RawQuery += "&"
		}
		req.URL.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(token.AccessToken)
	}
}

func (in *injection) valuesOf(token *tokensource.Token) [][]string {
	if f := in.formed.Load(); f != nil && f.token == token {
		return f.values
	}
	f := &formed{token: token}
	for _, format := range in.formats {
		f.values = append(f.values, []string{strings.ReplaceAll(format, tokenPlaceholder, token.AccessToken)})
	}
	in.formed.Store(f)
	return f.values
}

func (in *injection) cleanTrailer(trailer http.Header) {
	for field := range trailer {
		if in.isField(field) {
			delete(trailer, field)
		}
	}
}

// trailerBody takes our fields out of the caller's trailers, which are known
// when the body has ended.
type trailerBody struct {
	io.ReadCloser
	trailer   http.Header
	injection *injection
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.injection.cleanTrailer(b.trailer)
	}
	return n, err
}

// withoutParams drops the parameters of these names from a raw query and
// leaves every other byte as it was. Letter case is not looked at, and a
// semicolon separates as well, since there are servers that think so.
func withoutParams(query string, names []string) string {
	if query == "" {
		return query
	}
	var out strings.Builder
	var written bool
	for rest, separator := query, ""; ; {
		end := strings.IndexAny(rest, "&;")
		pair, next := rest, ""
		if end >= 0 {
			pair, next = rest[:end], rest[end:end+1]
		}
		if !isParam(pair, names) {
			if written {
				out.WriteString(separator)
			}
			out.WriteString(pair)
			written = true
		}
		if end < 0 {
			return out.String()
		}
		rest, separator = rest[end+1:], next
	}
}

func isParam(pair string, names []string) bool {
	name, _, _ := strings.Cut(pair, "=")
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	for _, n := range names {
		if strings.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// reflecting are the fields of an answer in which servers repeat the URL that
// they were asked for.
var reflecting = []string{"Location", "Content-Location", "Link", "Refresh"}

// scrub takes the token out of the URLs in an answer, so that a redirect to
// the same address with a slash does not show it to the caller.
func (in *injection) scrub(header http.Header, token *tokensource.Token) {
	if len(in.params) == 0 {
		return
	}
	for _, field := range reflecting {
		for i, value := range header[field] {
			value = withoutReflected(value, in.params)
			for _, form := range []string{token.AccessToken, url.QueryEscape(token.AccessToken), url.QueryEscape(url.QueryEscape(token.AccessToken))} {
				value = strings.ReplaceAll(value, form, "")
			}
			header[field][i] = value
		}
	}
}

// withoutReflected drops the parameters from every query in a text that holds
// one or more URLs.
func withoutReflected(text string, names []string) string {
	var out strings.Builder
	for {
		start := strings.IndexByte(text, '?')
		if start < 0 {
			out.WriteString(text)
			return out.String()
		}
		end := start + 1 + strings.IndexFunc(text[start+1:], func(r rune) bool { return strings.ContainsRune("#>\"', \t", r) })
		if end == start {
			end = len(text)
		}
		out.WriteString(text[:start])
		query := text[start+1 : end]
		if cleaned := withoutParams(query, names); cleaned != "" || query == "" {
			out.WriteString("?" + cleaned)
		}
		text = text[end:]
	}
}

// checkHostPattern refuses what could never match.
func checkHostPattern(pattern string) *mistake {
	host, _ := splitHostPort(pattern)
	if host == "" || host == "*" || strings.ContainsAny(pattern, "/{} ") {
		return wrong("allow_hosts", "%q is not a host such as api.example.org, *.example.org or 10.0.0.1:8443", pattern)
	}
	return nil
}

// hostAllowed says whether a host, with its port, matches one of the patterns.
// As in Caddy's host matcher, * stands for one label. A pattern without a port
// allows every port.
func hostAllowed(host, port string, patterns []string) bool {
	for _, pattern := range patterns {
		wantHost, wantPort := splitHostPort(pattern)
		if wantPort != "" && wantPort != port {
			continue
		}
		if labelsMatch(strings.ToLower(host), strings.ToLower(wantHost)) {
			return true
		}
	}
	return false
}

func labelsMatch(host, pattern string) bool {
	have, want := strings.Split(host, "."), strings.Split(pattern, ".")
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && (want[i] != "*" || have[i] == "") {
			return false
		}
	}
	return true
}

// splitHostPort is net.SplitHostPort for what may have no port.
func splitHostPort(text string) (host, port string) {
	if i := strings.LastIndexByte(text, ':'); i >= 0 && strings.IndexByte(text, ':') == i || strings.Contains(text, "]:") {
		host, port = text[:i], text[i+1:]
	} else {
		host = text
	}
	return strings.Trim(host, "[]"), port
}
