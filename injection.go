package injecttoken

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// HeaderInjection is a header field that holds the token.
type HeaderInjection struct {
	// The name of the field.
	Field string `json:"field"`

	// Its value. In it `{token}` stands for the token, `{response.NAME}` for what
	// the source exposes of the answer that had it, `{source.NAME}` for the token
	// of another source; and there are `{env.*}`, `{file.*}` and `{system.*}`,
	// which are looked at again each second. Default: `Bearer {token}` of the
	// field Authorization, `{token}` of others.
	Format string `json:"format,omitempty"`
}

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
	}
	return nil
}

func (h HeaderInjection) text() string {
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
	formats []format // one for each of fields
	params  []string
	sources []string // others, whose tokens stand in formats
	changes bool     // whether a format holds what may change while the token does not
}

// newInjection reads all that says where the token stands.
func newInjection(headers []HeaderInjection, params []string, basic *BasicInjection) (*injection, *mistake) {
	if len(headers) == 0 && len(params) == 0 && basic == nil {
		headers = []HeaderInjection{{Field: "Authorization"}}
	}
	in := &injection{params: params}
	for _, h := range headers {
		if m := h.check(); m != nil {
			return nil, m
		}
		f, m := newFormat("header", h.Field, h.text())
		if m != nil {
			return nil, m
		}
		if h.Format == "" && f.field == "Authorization" {
			f.bound = boundFormat
		}
		if m := in.add(f); m != nil {
			return nil, m
		}
	}
	if basic != nil {
		f, m := newBasic(basic)
		if m != nil {
			return nil, m
		}
		if m := in.add(f); m != nil {
			return nil, m
		}
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

func (in *injection) add(f format) *mistake {
	if slices.Contains(in.fields, f.field) {
		return wrong(f.option, "%s is set twice", f.field)
	}
	in.fields = append(in.fields, f.field)
	in.formats = append(in.formats, f)
	for _, name := range f.names(sourcePrefix) {
		if !slices.Contains(in.sources, name) {
			in.sources = append(in.sources, name)
		}
	}
	in.changes = in.changes || f.changes()
	return nil
}

// checkToken wants the token to stand somewhere.
func (in *injection) checkToken() *mistake {
	if len(in.params) > 0 {
		return nil
	}
	for _, f := range in.formats {
		if slices.Contains(f.names(""), "token") {
			return nil
		}
	}
	return in.formats[0].wrong("the format of %s does not hold {token}, nor does any other", in.formats[0].field)
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

// put puts what was formed of a token into a clean request.
func (in *injection) put(req *http.Request, f *formed) {
	for i, values := range f.values {
		req.Header[in.fields[i]] = values
	}
	for _, name := range in.params {
		if req.URL.RawQuery != "" {
			req.URL.RawQuery += "&"
		}
		req.URL.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(f.token.AccessToken)
	}
}
