package caddy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// wanted is the one token request that a provider takes at a moment. What it does
// not name must not be there.
type wanted struct {
	moment

	method, encoding, endpoint string
	host                       string // "": that of the URL
	query                      url.Values
	params                     url.Values     // wherever the encoding has them
	objects                    map[string]any // of JSON, those that are no texts
	header                     http.Header
	signed                     map[string]signedParam // parameters that the client has signed
	proof                      string                 // "" or what proofs has
}

// moment is what a token request depends on beside the shape.
type moment struct {
	path    string // of the provider
	refresh bool   // it goes on with a grant
	renews  string // the refresh token that is current; "": there is none
}

// received is a token request as it came.
type received struct {
	*http.Request
	body     string
	provider string            // the address that it went to
	at       time.Time         // when, by the provider's clock
	again    func(id any) bool // whether the id of an assertion has come before
}

// differs says in which respect a request is not the one that was wanted; "" if
// it is.
func (w *wanted) differs(r received) string {
	for _, check := range []func(received) string{w.line, w.fields, w.parameters} {
		if fault := check(r); fault != "" {
			return fault
		}
	}
	return ""
}

func (w *wanted) line(r received) string {
	switch {
	case r.Method != w.method:
		return fmt.Sprintf("method %s, want %s", r.Method, w.method)
	case r.URL.EscapedPath() != w.endpoint:
		return fmt.Sprintf("path %s, want %s", r.URL.EscapedPath(), w.endpoint)
	case w.host != "" && r.Host != w.host:
		return fmt.Sprintf("host %s, want %s", r.Host, w.host)
	}
	return ""
}

// ofTransport are the fields that belong to the connection, and their only values.
var ofTransport = http.Header{"Accept-Encoding": {"gzip"}, "Connection": {"close"}}

func (w *wanted) fields(r received) string {
	want := w.header.Clone()
	if contentType := cmp.Or(contentTypes[w.encoding], writtenBodies[w.encoding].contentType); contentType != "" {
		want.Set("Content-Type", contentType)
	}
	got := r.Header.Clone()
	for name, values := range ofTransport {
		if v, ok := got[name]; ok && !slices.Equal(v, values) {
			return fmt.Sprintf("header %s: %q", name, v)
		}
		got.Del(name)
	}
	if w.proof != "" {
		got.Del("Dpop") // which is looked at by itself
	}
	got.Del("Content-Length") // which Go's server has checked
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if !slices.Equal(got[name], want[name]) {
			return fmt.Sprintf("header %s: %q, want %q", name, got[name], want[name])
		}
		want.Del(name)
	}
	if len(want) > 0 {
		return fmt.Sprintf("headers are missing: %v", want)
	}
	return ""
}

// contentTypes of the encodings that have a body.
var contentTypes = map[string]string{
	"form": "application/x-www-form-urlencoded",
	"json": "application/json",
}

func (w *wanted) parameters(r received) string {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "a query that cannot be read: " + r.URL.RawQuery
	}
	if strings.Contains(r.URL.RawQuery, "+") {
		return "a blank of the query is a plus, which not every server decodes"
	}
	for _, name := range slices.Sorted(maps.Keys(w.signed)) {
		text := w.sent(r, name)
		if fault := w.signed[name].differs(text, r); fault != "" {
			return name + ": " + fault
		}
		w.params.Set(name, text)
	}
	wantQuery, wantBody := maps.Clone(w.query), ""
	switch w.encoding {
	case "query":
		for name, values := range w.params {
			wantQuery[name] = append(slices.Clone(wantQuery[name]), values...)
		}
	case "form":
		form, err := url.ParseQuery(r.body)
		if err != nil || !reflect.DeepEqual(form, w.params) {
			return fmt.Sprintf("the form is %q, want %q", r.body, w.params.Encode())
		}
		wantBody = r.body
	case "json":
		if got, want := canonical(r.body), w.object(); got != want {
			return fmt.Sprintf("the JSON is %s, want %s", got, want)
		}
		wantBody = r.body
	default:
		if fault := w.bodyDiffers(r.body); fault != "" {
			return fault
		}
		wantBody = r.body
	}
	if !maps.EqualFunc(query, wantQuery, slices.Equal) {
		return fmt.Sprintf("the query is %q, want %q", r.URL.RawQuery, wantQuery.Encode())
	}
	if r.body != wantBody {
		return fmt.Sprintf("the body is %q, want %q", r.body, wantBody)
	}
	return ""
}

// sent returns one parameter as it came.
func (w *wanted) sent(r received, name string) string {
	switch w.encoding {
	case "query":
		return r.URL.Query().Get(name)
	case "form":
		form, _ := url.ParseQuery(r.body)
		return form.Get(name)
	case "json":
	default:
		return writtenBodies[w.encoding].read(r.body)[name]
	}
	var fields map[string]any
	_ = json.Unmarshal([]byte(r.body), &fields)
	text, _ := fields[name].(string)
	return text
}

// object is the JSON of the parameters, in the canonical form.
func (w *wanted) object() string {
	object := make(map[string]any)
	for name, values := range w.params {
		object[name] = values
		if len(values) == 1 {
			object[name] = values[0]
		}
	}
	maps.Copy(object, w.objects)
	text, _ := json.Marshal(object)
	return canonical(string(text))
}

// canonical is a JSON text with its names in order and no blanks; what is none
// stays as it is.
func canonical(text string) string {
	var value any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil || decoder.More() {
		return "no JSON: " + text
	}
	out, _ := json.Marshal(value)
	return string(out)
}
