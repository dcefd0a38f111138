package injecttoken

import (
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
}

// formed is the header values of one token: made once, they cost a request
// nothing. The slices are shared between requests and never written to.
type formed struct {
	token  *tokensource.Token
	values [][]string
	hidden hidden
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
// makes one sign of all that are no letters or digits, as CGI does, would think
// so.
func (in *injection) isField(name string) bool {
	return slices.ContainsFunc(in.fields, func(field string) bool { return sameField(name, field) })
}

func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldField(a[i]) != foldField(b[i]) {
			return false
		}
	}
	return true
}

func foldField(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// clean gives a copy of the request a header of its own, and takes the caller's
// values out of the places of the token. Those of trailers are seen to by the
// body.
func (in *injection) clean(out *http.Request) {
	header := out.Header
	out.Header = make(http.Header, len(header)+len(in.fields))
	for field, values := range header {
		if !in.isField(field) {
			out.Header[field] = values
		}
	}
	if len(in.params) > 0 {
		out.URL.RawQuery = withoutParams(out.URL.RawQuery, in.params)
		// They cannot stand in a request target, and some servers end it there.
		out.URL.RawQuery = unending.Replace(out.URL.RawQuery)
	}
}

var unending = strings.NewReplacer("#", "%23", " ", "%20")

// put puts the token into a clean request, and returns what is to be hidden.
func (in *injection) put(req *http.Request, token *tokensource.Token, cache *atomic.Pointer[formed]) hidden {
	formed := in.formedOf(token, cache)
	for i, values := range formed.values {
		req.Header[in.fields[i]] = values
	}
	for _, name := range in.params {
		if req.URL.RawQuery != "" {
			req.URL.RawQuery += "&"
		}
		req.URL.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(token.AccessToken)
	}
	return formed.hidden
}

func (in *injection) formedOf(token *tokensource.Token, cache *atomic.Pointer[formed]) *formed {
	if f := cache.Load(); f != nil && f.token == token {
		return f
	}
	f := &formed{token: token, hidden: newHidden(token)}
	for _, format := range in.formats {
		f.values = append(f.values, []string{strings.ReplaceAll(format, tokenPlaceholder, token.AccessToken)})
	}
	cache.Store(f)
	return f
}
