package caddy_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// placement is where an API wants the token.
type placement struct {
	write  []string          // the options of inject_token
	fields map[string]string // the fields that the API wants, with <token> for the token
	params []string          // the parameters, at the end of the query, that are the token
}

var placements = map[string]placement{
	"bearer": {nil, map[string]string{"Authorization": "Bearer <token>"}, nil},
	"scheme": {[]string{"header authorization `Token token=\"{token}\", v=1`"}, map[string]string{"Authorization": `Token token="<token>", v=1`}, nil},
	"field":  {[]string{"header X-Session"}, map[string]string{"X-Session": "<token>"}, nil},
	"query":  {[]string{"query access_token"}, nil, []string{"access_token"}},
	"cookie": {[]string{"header Cookie session={token}"}, map[string]string{"Cookie": "session=<token>"}, nil},
	"fields": {[]string{"header Authorization", "header x-session v1:{token}:{token}"},
		map[string]string{"Authorization": "Bearer <token>", "X-Session": "v1:<token>:<token>"}, nil},
	"both":   {[]string{"query key&1", "header X-Session"}, map[string]string{"X-Session": "<token>"}, []string{"key&1"}},
	"params": {[]string{"query access_token", "query token"}, nil, []string{"access_token", "token"}},
	"user":   {[]string{"basic {token} x:y"}, map[string]string{"Authorization": "Basic <token>:x:y"}, nil},
	"password": {[]string{"basic {env.SHAPE_USER} v1/{token}", "query token"},
		map[string]string{"Authorization": "Basic <user>:v1/<token>"}, []string{"token"}},
	"response": {[]string{"header Authorization", `header X-Tenant "tenant {response.tenant}"`},
		map[string]string{"Authorization": "Bearer <token>", "X-Tenant": "tenant <tenant>"}, nil},
	"key": {[]string{"header Authorization", "header X-Api-Key {file.{{dir}}/key}"},
		map[string]string{"Authorization": "Bearer <token>", "X-Api-Key": "<key>"}, nil},
	"partner": {[]string{"header Authorization", `header X-Session "of {source.partner}; by {token}"`},
		map[string]string{"Authorization": "Bearer <token>", "X-Session": "of <partner>; by <token>"}, nil},
}

// What a caller sends of its own, in every place in which some API wants a token.
// It arrives where the token does not take its place.
var (
	callerFields = map[string]string{"Authorization": "Basic Y2FsbGVyOm93bg==", "X-Session": "caller", "X-Tenant": "caller", "X-Api-Key": "caller", "Cookie": "session=caller; a=b", "X-Other": "caller"}
	callerParams = []string{"a=1", "access_token=caller", "b=%20x", "token=caller", "key%261=caller"}
)

// callerRequest is one of a caller who knows nothing, or something wrong.
func callerRequest(address, name string) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodGet, address+"/"+name+"/hello?"+strings.Join(callerParams, "&"), nil)
	if err != nil {
		return nil, err
	}
	for field, value := range callerFields {
		req.Header.Set(field, value)
	}
	return req, nil
}

// tokenOf returns the token of a request to the API, or what is wrong with it: it
// must be in all its places, exactly, and nothing else may have changed. Others are
// the values that go with it.
func (s *shape) tokenOf(r *http.Request, others map[string]string, known func(token string) bool) (token, fault string) {
	p := placements[s.of["inject"]]
	want := make(map[string]string)
	for name, value := range callerFields {
		want[name] = value
	}
	if token = p.find(r); !known(token) {
		return "", fmt.Sprintf("no token of this provider in %v and %q", r.Header, r.URL.RawQuery)
	}
	for name, value := range p.fields {
		want[name] = s.field(value, token, others)
	}
	for name, value := range want {
		if got := r.Header.Values(name); !slices.Equal(got, []string{value}) {
			return "", fmt.Sprintf("field %s: %q, want %q alone", name, got, value)
		}
	}
	if want := p.query(token); r.URL.RawQuery != want {
		return "", fmt.Sprintf("query %q, want %q", r.URL.RawQuery, want)
	}
	return token, ""
}

// query is the caller's own, byte for byte, with the token in its places.
func (p placement) query(token string) string {
	query := slices.DeleteFunc(slices.Clone(callerParams), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, _ = url.QueryUnescape(name)
		return slices.Contains(p.params, name)
	})
	for _, name := range p.params {
		query = append(query, url.QueryEscape(name)+"="+url.QueryEscape(token))
	}
	return strings.Join(query, "&")
}

// boundScheme is what the scheme of a token is that is bound to a key, where nobody has
// written another.
var boundScheme = strings.NewReplacer("Bearer <token>", "DPoP <token>")

// field is what a field of a placement holds.
func (s *shape) field(value, token string, others map[string]string) string {
	if s.of["proof"] != "" && s.of["proof"] != "none" {
		value = boundScheme.Replace(value)
	}
	value = strings.ReplaceAll(value, "<token>", token)
	for name, other := range others {
		value = strings.ReplaceAll(value, name, other)
	}
	if credentials, ok := strings.CutPrefix(value, "Basic "); ok {
		value = "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
	}
	return value
}

// find returns what stands in the first place of the token.
func (p placement) find(r *http.Request) string {
	if len(p.params) > 0 {
		return r.URL.Query().Get(p.params[0])
	}
	names := slices.Sorted(maps.Keys(p.fields)) // Authorization first
	if len(names) == 0 {
		return ""
	}
	got, value := r.Header.Get(names[0]), p.fields[names[0]]
	if user, password, ok := r.BasicAuth(); ok && strings.HasPrefix(value, "Basic ") {
		got = "Basic " + user + ":" + password
	}
	if token, ok := strings.CutPrefix(got, "DPoP "); ok {
		return token
	}
	before, after, _ := strings.Cut(value, "<token>")
	after, _, _ = strings.Cut(after, "<token>")
	_, rest, _ := strings.Cut(got, before)
	if after == "" {
		return rest
	}
	token, _, _ := strings.Cut(rest, after)
	return token
}

// TestAnAPITakesTheTokenInItsOwnPlacesAlone brings a token to each API as every
// other one wants it.
func TestAnAPITakesTheTokenInItsOwnPlacesAlone(t *testing.T) {
	t.Parallel()
	const token = "token+/=1"
	others := map[string]string{"<partner>": partnerToken, "<tenant>": shapeTenant, "<key>": shapeKey, "<user>": shapeUser}
	known := func(got string) bool { return got == token }
	for theirs, p := range placements {
		req, err := callerRequest("http://127.0.0.1", "x")
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = p.query(token)
		for name, value := range p.fields {
			req.Header.Set(name, new(shape).field(value, token, others))
		}
		for wanted := range placements {
			s := &shape{of: map[string]string{"inject": wanted}}
			if _, fault := s.tokenOf(req, others, known); (fault == "") != (wanted == theirs) {
				t.Errorf("as %s wants it, %s says %q", theirs, wanted, fault)
			}
		}
	}
}
