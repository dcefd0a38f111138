package tokensource

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Request says how a token request deviates from RFC 6749's POST of a form.
type Request struct {
	// URL is where it goes; empty: the token URL.
	URL string

	// Method is GET or POST; empty: POST.
	Method string

	// Encoding is where the parameters go: "form", "query" or "json"; empty:
	// the form of a POST, the query of a GET.
	Encoding string

	// Header holds further header fields.
	Header []Header

	// Params are parameters of this kind of request alone.
	Params []Param

	// Body is written out, in the place of an Encoding. Nil: it is not.
	Body *Body
}

// Header is one header field.
type Header struct{ Name, Value string }

// Param is one parameter. Of a standard name it replaces the standard value.
type Param struct {
	Name string

	// Value is a text.
	Value string

	// JSON is a value that is not a text, for the encoding "json" alone.
	JSON json.RawMessage

	// Omit leaves the parameter out, where it would be sent otherwise.
	Omit bool
}

// Inherit returns r, completed by the defaults and by what other says of method, encoding and
// header, as far as that goes with what r says itself: a GET has no body.
// Parameters and a body are not inherited.
func (r Request) Inherit(other Request) Request {
	if r.Encoding == "" && r.Method != http.MethodGet && r.Body == nil {
		r.Encoding = other.Encoding
	}
	if r.Method == "" && r.Body == nil && (r.Encoding == "" || r.Encoding == "query") {
		r.Method = other.Method
	}
	r.Header = slices.Concat(other.Header, r.Header)
	return r.withDefaults()
}

// withDefaults resolves the empty method and encoding.
func (r Request) withDefaults() Request {
	if r.Method == "" {
		r.Method = http.MethodPost
	}
	if r.Encoding == "" {
		r.Encoding = "form"
		if r.Method == http.MethodGet {
			r.Encoding = "query"
		}
	}
	return r
}

// parameters is what one token request says, in no order.
type parameters struct {
	texts url.Values
	json  map[string]json.RawMessage
}

// apply adds, replaces and leaves out, as written. What is written twice in
// one list is sent twice (RFC 8707's resource).
func (p *parameters) apply(list []Param) {
	written := map[string]bool{}
	for _, param := range list {
		if !written[param.Name] {
			p.texts.Del(param.Name)
			delete(p.json, param.Name)
		}
		written[param.Name] = true
		switch {
		case param.Omit:
		case param.JSON != nil:
			p.json[param.Name] = param.JSON
		default:
			p.texts.Add(param.Name, param.Value)
		}
	}
}

// encode puts the parameters where the provider wants them.
func (p *parameters) encode(req *http.Request, encoding string) error {
	switch encoding {
	case "query":
		addQuery(req.URL, p.texts)
		setBody(req, "", nil)
	case "json":
		body, err := p.object()
		if err != nil {
			return err
		}
		setBody(req, "application/json", body)
	default:
		setBody(req, "application/x-www-form-urlencoded", []byte(p.texts.Encode()))
	}
	return nil
}

func (p *parameters) object() ([]byte, error) {
	object := make(map[string]any, len(p.texts)+len(p.json))
	for name, values := range p.texts {
		if len(values) == 1 {
			object[name] = values[0]
		} else {
			object[name] = values
		}
	}
	for name, value := range p.json {
		object[name] = value
	}
	return json.Marshal(object)
}

// addQuery appends to what the URL has already. A blank is %20 and not a plus:
// every server decodes the one, not every server the other.
func addQuery(u *url.URL, values url.Values) {
	query := strings.ReplaceAll(values.Encode(), "+", "%20")
	if u.RawQuery != "" && query != "" {
		query = u.RawQuery + "&" + query
	}
	if query != "" {
		u.RawQuery = query
	}
}

func setBody(req *http.Request, contentType string, body []byte) {
	req.Header.Del("Content-Type")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if len(body) == 0 {
		req.Body, req.GetBody = http.NoBody, nil
		req.ContentLength = 0
		return
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	req.ContentLength = int64(len(body))
}
