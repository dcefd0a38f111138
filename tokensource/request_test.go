package tokensource

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// provider is a token endpoint that records what arrives and answers as it is
// told: the first request with the first reply, and all that follow the last
// one with the last.
type provider struct {
	*httptest.Server

	mu       sync.Mutex // guards what follows
	requests []recorded
	replies  []http.HandlerFunc
}

// recorded is a request as it arrived.
type recorded struct {
	method, target string // target is the request line's, byte for byte
	host           string
	header         http.Header
	body           string
}

func newProvider(t testing.TB, replies ...http.HandlerFunc) *provider {
	p := &provider{replies: replies}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	got := recorded{method: r.Method, target: r.RequestURI, host: r.Host, header: r.Header.Clone(), body: string(body)}
	p.mu.Lock()
	reply := p.replies[min(len(p.requests), len(p.replies)-1)]
	p.requests = append(p.requests, got)
	p.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	reply(w, r)
}

// arrived returns all requests until now.
func (p *provider) arrived() []recorded {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// only returns the one request that arrived.
func (p *provider) only(t testing.TB) recorded {
	t.Helper()
	got := p.arrived()
	if len(got) != 1 {
		t.Fatalf("%d requests arrived, want 1", len(got))
	}
	return got[0]
}

// values returns all parameters, wherever they are; no encoding but JSON's is
// told apart.
func (r recorded) values(t testing.TB) url.Values {
	t.Helper()
	_, query, _ := strings.Cut(r.target, "?")
	all, err := url.ParseQuery(query)
	if err != nil {
		t.Fatalf("query %q: %v", query, err)
	}
	for name, values := range r.inBody(t) {
		all[name] = append(all[name], values...)
	}
	return all
}

func (r recorded) inBody(t testing.TB) url.Values {
	t.Helper()
	if r.header.Get("Content-Type") != "application/json" {
		values, err := url.ParseQuery(r.body)
		if err != nil {
			t.Fatalf("body %q: %v", r.body, err)
		}
		return values
	}
	var object map[string]string
	if err := json.Unmarshal([]byte(r.body), &object); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
	values := url.Values{}
	for name, value := range object {
		values.Set(name, value)
	}
	return values
}

// reply answers with a status, a body and header fields in pairs.
func reply(status int, body string, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// issue answers with an access token, and a refresh token if that is not
// empty.
func issue(access, refresh string) http.HandlerFunc {
	body := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 3600}
	if refresh != "" {
		body["refresh_token"] = refresh
	}
	text, _ := json.Marshal(body)
	return reply(http.StatusOK, string(text), "Content-Type", "application/json")
}

// transport returns one that no other test shares.
func transport(t testing.TB) *http.Transport {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// obtain makes a source and asks it once. Everything must end long before the
// context does.
func obtain(t testing.TB, c Config, previous *Token) (*Token, *Error) {
	t.Helper()
	return ask(t, newSource(t, c), previous)
}

func newSource(t testing.TB, c Config) *Source {
	t.Helper()
	if c.Transport == nil {
		c.Transport = transport(t)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(t testing.TB, s *Source, previous *Token) (*Token, *Error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return askWithin(t, ctx, s, previous)
}

func askWithin(t testing.TB, ctx context.Context, s *Source, previous *Token) (*Token, *Error) {
	t.Helper()
	token, err := s.Obtain(ctx, previous)
	switch failure, ok := err.(*Error); {
	case err == nil && token == nil:
		t.Fatal("neither a token nor an error")
	case err == nil:
		return token, nil
	case !ok || failure == nil || token != nil:
		t.Fatalf("got %v and %#v, want either a token or an *Error", token, err)
	default:
		return nil, failure
	}
	return nil, nil
}

// must fails the test where there is an error.
func must(t testing.TB, token *Token, failure *Error) *Token {
	t.Helper()
	if failure != nil {
		t.Fatalf("no token: %v", failure)
	}
	return token
}

// mustFail fails the test where there is a token.
func mustFail(t testing.TB, token *Token, failure *Error) *Error {
	t.Helper()
	if failure == nil {
		t.Fatalf("got the token %q, want an error", token.AccessToken)
	}
	return failure
}

const agent = "caddy-inject-token"

// client is a source of the plainest kind.
func client(p *provider) Config {
	return Config{
		Grant: "client_credentials", TokenURL: p.URL + "/token",
		ClientID: "client", ClientSecret: "secret", UserAgent: agent,
	}
}

// changedBy applies changes to it.
func changedBy(changes ...func(*Config)) []func(*Config) { return changes }

func clientAuth(name string) func(*Config) {
	return func(c *Config) { c.ClientAuth = name }
}

func specialClient(c *Config) { c.ClientID, c.ClientSecret = "my:client/ä", "p:a/s+s%w & ä=~" }

func public(c *Config) { c.ClientSecret = "" }

func raw(c *Config) { c.RawBasic = true }

func login(c *Config) {
	c.Grant, c.Username, c.Password = "password", "jöe@example.org", "a b&c=d+e%2F"
}

func customGrant(c *Config) { c.Grant, c.ClientID, c.ClientSecret = "custom", "", "" }

func scopes(separator string, list ...string) func(*Config) {
	return func(c *Config) { c.Scopes, c.ScopeSeparator = list, separator }
}

func path(path string) func(*Config) {
	return func(c *Config) { c.TokenURL = strings.TrimSuffix(c.TokenURL, "/token") + path }
}

func tokenRequest(r Request) func(*Config) { return func(c *Config) { c.TokenRequest = r } }

func refreshRequest(r Request) func(*Config) {
	return func(c *Config) {
		own := r
		c.RefreshRequest = &own
	}
}

func allParams(list ...Param) func(*Config) { return func(c *Config) { c.Params = list } }

func param(name, value string) Param { return Param{Name: name, Value: value} }

func omit(name string) Param { return Param{Name: name, Omit: true} }

func paramJSON(name, value string) Param { return Param{Name: name, JSON: json.RawMessage(value)} }

// written says what to configure for each file in testdata/requests, which is
// the request that must arrive. In the URL of a refresh, BASE is the
// provider's address.
var written = map[string]struct {
	changes []func(*Config)
	refresh bool // with the refresh token "rt/1+"
}{
	"basic":                    {},
	"basic_special_characters": {changes: changedBy(specialClient, clientAuth("client_secret_basic"))},
	"basic_raw":                {changes: changedBy(specialClient, clientAuth("client_secret_basic"), raw)},
	"post":                     {changes: changedBy(specialClient, clientAuth("client_secret_post"))},
	"query_and_form":           {changes: changedBy(specialClient, clientAuth("client_secret_query"))},
	"query_and_get":            {changes: changedBy(specialClient, clientAuth("client_secret_query"), tokenRequest(Request{Method: "GET"}))},
	"query_and_json":           {changes: changedBy(specialClient, clientAuth("client_secret_query"), tokenRequest(Request{Encoding: "json"}))},
	"none":                     {changes: changedBy(public)},

	"scope_of_blanks":       {changes: changedBy(scopes("", "read", "write:all"))},
	"scope_of_commas":       {changes: changedBy(scopes(",", "read(all)", "write(companies,contacts)"))},
	"password":              {changes: changedBy(login, scopes("", "read", "write"))},
	"password_in_the_query": {changes: changedBy(login, scopes("", "read", "write"), clientAuth("client_secret_post"), tokenRequest(Request{Method: "GET"}))},
	"post_of_a_query":       {changes: changedBy(scopes("", "read", "write"), clientAuth("client_secret_post"), tokenRequest(Request{Encoding: "query"}))},
	"refresh_token_grant": {changes: changedBy(scopes("", "read", "write"), func(c *Config) {
		c.Grant, c.RefreshToken = "refresh_token", "first/+="
	})},
	"query_of_the_url_stays": {changes: changedBy(path("/token?b=2&a=1;c&d=%zz&e=f+g"),
		tokenRequest(Request{Method: "GET"}), allParams(param("x", "a b")))},
	"query_of_the_url_stays_beside_a_form": {changes: changedBy(path("/token?b=2&a=1;c&d=%zz&e=f+g"))},

	"params": {changes: changedBy(scopes("", "replaced"), allParams(
		param("resource", "https://a"), param("grant_type", "urn:x"), param("audience", "https://api"),
		param("resource", "https://b"), param("scope", "read"), param("empty", "")))},
	"params_left_out": {changes: changedBy(clientAuth("client_secret_post"), scopes("", "read"), allParams(
		omit("grant_type"), omit("scope"), omit("client_id"), omit("never_there")))},
	"params_of_the_request_win": {changes: changedBy(
		allParams(param("resource", "https://a"), param("resource", "https://b"), param("audience", "all"), param("dropped", "x"), param("kept", "yes")),
		tokenRequest(Request{Params: []Param{param("resource", "https://c"), param("audience", "own"), omit("dropped")}}))},
	"json": {changes: changedBy(scopes("", "read", "write"),
		allParams(paramJSON("n", "6"), paramJSON("login", `{"user":"u"}`), param("flag", "a text")),
		tokenRequest(Request{Encoding: "json", Params: []Param{
			paramJSON("n", " 7 "), paramJSON("flag", "false"), param("login", "text"),
			paramJSON("depth", `{"text": "ä \"\\", "list": [1, 2.50, 12345678901234567890, null, true, "x"]}`),
		}}))},
	"headers": {changes: changedBy(tokenRequest(Request{Header: []Header{
		{"host", "tenant.example.org"}, {"accept", "*/*"}, {"User-Agent", "own/1"}, {"x-api-key", "k 1"},
		{"X-Twice", "first"}, {"x-twice", "second"}, {"content-type", "application/x-www-form-urlencoded; charset=utf-8"},
	}}))},

	"custom_sends_nothing":     {changes: changedBy(customGrant)},
	"custom_get_sends_nothing": {changes: changedBy(customGrant, tokenRequest(Request{Method: "GET"}))},
	"custom_json": {changes: changedBy(customGrant, path("/login"),
		allParams(param("app", "proxy")),
		tokenRequest(Request{Encoding: "json", Header: []Header{{"X-Tenant", "t1"}}, Params: []Param{
			paramJSON("user", `{"name":"joe","pin":1234}`), paramJSON("remember", "true"),
		}}))},
	"custom_basic": {changes: changedBy(clientAuth("client_secret_basic"), func(c *Config) { c.Grant = "custom" })},

	"refresh": {refresh: true, changes: changedBy(allParams(param("source", "yes")),
		tokenRequest(Request{Params: []Param{param("first", "alone"), omit("source")}}))},
	"refresh_inherits_json": {refresh: true, changes: changedBy(allParams(param("source", "yes")),
		tokenRequest(Request{Encoding: "json", Header: []Header{{"X-Api-Key", "k"}}, Params: []Param{param("first", "alone")}}))},
	"refresh_inherits_get": {refresh: true, changes: changedBy(tokenRequest(Request{Method: "GET"}))},
	"refresh_of_its_own": {refresh: true, changes: changedBy(allParams(param("source", "yes")),
		tokenRequest(Request{Method: "GET", Header: []Header{{"X-Api-Key", "k"}}}),
		refreshRequest(Request{
			URL: "BASE/v2/refresh/{refresh_token}?t={refresh_token}&x=1", Encoding: "form",
			Header: []Header{{"x-api-key", "other"}, {"X-Refresh", "{refresh_token}"}},
			Params: []Param{param("again", "{refresh_token}")},
		}))},
	"refresh_under_another_name": {refresh: true, changes: changedBy(
		refreshRequest(Request{Params: []Param{param("old", "{refresh_token}")}}))},
	"refresh_standard_name_written_out": {refresh: true, changes: changedBy(
		refreshRequest(Request{Params: []Param{param("refresh_token", "{refresh_token}")}}))},
	"refresh_without_the_token": {refresh: true, changes: changedBy(
		refreshRequest(Request{Params: []Param{omit("refresh_token")}}))},
	"refresh_without_scope": {refresh: true, changes: changedBy(scopes("", "read", "write"))},
	"refresh_of_custom": {refresh: true, changes: changedBy(customGrant, path("/login"), allParams(param("app", "proxy")),
		tokenRequest(Request{Encoding: "json", Params: []Param{param("user", "joe")}}),
		refreshRequest(Request{URL: "BASE/login/renew", Params: []Param{paramJSON("renew", `{"token":"{refresh_token}"}`)}}))},
}

// wire writes a request as the files in testdata/requests have it: less what
// net/http adds, with its fields in order, and one more line feed.
func (r recorded) wire(host string) string {
	fields := r.header.Clone()
	fields.Del("Accept-Encoding")
	fields.Del("Connection")
	if r.host != host {
		fields.Set("Host", r.host)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", r.method, r.target)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	return b.String() + "\n" + r.body + "\n"
}

func TestATokenRequestArrivesToTheByteAsConfigured(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "requests", "*.txt"))
	if err != nil || len(files) != len(written) {
		t.Fatalf("%d files in testdata/requests for %d entries (%v)", len(files), len(written), err)
	}
	for name, w := range written {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(filepath.Join("testdata", "requests", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			p := newProvider(t, issue("at", ""))
			c := client(p)
			for _, change := range w.changes {
				change(&c)
			}
			if c.RefreshRequest != nil {
				c.RefreshRequest.URL = strings.Replace(c.RefreshRequest.URL, "BASE", p.URL, 1)
			}
			var previous *Token
			if w.refresh {
				previous = &Token{AccessToken: "at/0", RefreshToken: "rt/1+"}
			}
			token, failure := obtain(t, c, previous)
			must(t, token, failure)
			got := p.only(t).wire(strings.TrimPrefix(p.URL, "http://"))
			if got != string(want) {
				t.Errorf("arrived:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// TestEveryGrantGoesWithEveryClientAuthenticationAndEncoding looks where each
// parameter is, in all combinations.
func TestEveryGrantGoesWithEveryClientAuthenticationAndEncoding(t *testing.T) {
	t.Parallel()
	own := map[string]url.Values{
		"client_credentials": {"grant_type": {"client_credentials"}, "scope": {"a b"}},
		"password":           {"grant_type": {"password"}, "scope": {"a b"}, "username": {"u&ser"}, "password": {"pass word"}},
		"refresh_token":      {"grant_type": {"refresh_token"}, "scope": {"a b"}, "refresh_token": {"first"}},
		"custom":             {},
		"authorization_code": {"grant_type": {"authorization_code"}, "code": {"PIN"}, "redirect_uri": {"https://here.example/cb"}},
		"device_code":        {"grant_type": {deviceGrantType}, "device_code": {"device"}},
		"jwt_bearer":         {"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "scope": {"a b"}, "assertion": {"JWT"}},
		"token_exchange": {"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "scope": {"a b"},
			"subject_token": {"theirs"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}},
	}
	key := pemKey(t, "P-256")
	if got := GrantNames(); !slices.Equal(got, slices.Sorted(maps.Keys(own))) {
		t.Fatalf("grants %q, the test knows %q", got, slices.Sorted(maps.Keys(own)))
	}
	places := []Request{{}, {Method: "POST", Encoding: "query"}, {Encoding: "json"}, {Method: "GET"}, {Method: "GET", Encoding: "query"}}
	p := newProvider(t, issue("at", ""))
	shared := transport(t)
	count := 0
	for grant, parameters := range own {
		for _, auth := range slices.Concat(ClientAuthNames(), []string{""}) {
			for _, place := range places {
				name := fmt.Sprintf("%s, client_auth %q, %s %s", grant, auth, place.Method, place.Encoding)
				c := Config{
					Grant: grant, ClientAuth: auth, TokenRequest: place, TokenURL: p.URL, ClientID: "my id", ClientSecret: "my secret of thirty-two bytes...",
					Username: "u&ser", Password: "pass word", RefreshToken: "first", Scopes: []string{"a", "b"}, Transport: shared,
					PrivateKey: key, SubjectToken: "theirs",
				}
				if auth == "none" {
					c.ClientSecret = ""
				}
				token, failure := begin(t, c)
				must(t, token, failure)
				got := p.arrived()
				if count++; len(got) != count {
					t.Fatalf("%s: %d requests for %d tokens", name, len(got), count)
				}
				checkPlaces(t, name, got[count-1], place, auth, grant == "custom", maps.Clone(parameters))
			}
		}
	}
}

// begin makes the request by which a grant begins.
func begin(t *testing.T, c Config) (*Token, *Error) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	var token *Token
	switch c.Grant {
	case "authorization_code":
		token, err = s.Exchange(t.Context(), &Authorization{RedirectURI: "https://here.example/cb"}, "PIN")
	case "device_code":
		token, err = s.ExchangeDevice(t.Context(), &DeviceAuthorization{DeviceCode: "device"})
	default:
		return obtain(t, c, nil)
	}
	failure, _ := err.(*Error)
	return token, failure
}

// sortedQuery is a query in the order of its names; credentials stand first.
func sortedQuery(query string) string {
	pairs := strings.Split(query, "&")
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// anyJWT is one that was signed a moment ago; what it says is looked at elsewhere.
var anyJWT = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// checkPlaces takes over the parameters that the grant itself asks with.
func checkPlaces(t *testing.T, name string, got recorded, place Request, auth string, custom bool, inBody url.Values) {
	t.Helper()
	inQuery, credentials := url.Values{}, url.Values{}
	authorization := ""
	if auth == "" && !custom {
		auth = "client_secret_basic"
	}
	switch {
	case auth == "client_secret_basic":
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte("my+id:my+secret+of+thirty-two+bytes..."))
	case custom:
	case strings.HasPrefix(auth, "client_secret_") && auth != "client_secret_jwt":
		credentials = url.Values{"client_id": {"my id"}, "client_secret": {"my secret of thirty-two bytes..."}}
	case strings.HasSuffix(auth, "_jwt"):
		credentials = url.Values{"client_id": {"my id"}, "client_assertion": {"JWT"}, "client_assertion_type": {jwtBearerAssertion}}
	default:
		credentials.Set("client_id", "my id")
	}
	if auth == "client_secret_query" {
		maps.Copy(inQuery, credentials)
	} else {
		maps.Copy(inBody, credentials)
	}
	method, contentType := "POST", "application/x-www-form-urlencoded"
	switch {
	case place.Method == "GET" || place.Encoding == "query":
		maps.Copy(inQuery, inBody)
		inBody, contentType = url.Values{}, ""
		if place.Method == "GET" {
			method = "GET"
		}
	case place.Encoding == "json":
		contentType = "application/json"
	}
	_, query, _ := strings.Cut(got.target, "?")
	for _, check := range []struct{ what, got, want string }{
		{"method", got.method, method},
		{"content type", got.header.Get("Content-Type"), contentType},
		{"authorization", strings.Join(got.header["Authorization"], ", "), authorization},
		{"query", sortedQuery(anyJWT.ReplaceAllString(query, "JWT")), strings.ReplaceAll(inQuery.Encode(), "+", "%20")},
		{"body", anyJWT.ReplaceAllString(got.inBody(t).Encode(), "JWT"), inBody.Encode()},
	} {
		if check.got != check.want {
			t.Errorf("%s: the %s is %q, want %q", name, check.what, check.got, check.want)
		}
	}
}

func TestARefreshInheritsMethodAndEncodingAsFarAsTheyGoTogether(t *testing.T) {
	t.Parallel()
	r := func(method, encoding string) Request { return Request{Method: method, Encoding: encoding} }
	for _, c := range []struct{ token, refresh, want Request }{
		{r("", ""), r("", ""), r("POST", "form")},
		{r("GET", ""), r("", ""), r("GET", "query")},
		{r("GET", "query"), r("", ""), r("GET", "query")},
		{r("POST", "query"), r("", ""), r("POST", "query")},
		{r("", "query"), r("", ""), r("POST", "query")},
		{r("", "json"), r("", ""), r("POST", "json")},
		{r("POST", "form"), r("", ""), r("POST", "form")},

		{r("", ""), r("GET", ""), r("GET", "query")},
		{r("", "json"), r("GET", ""), r("GET", "query")},
		{r("POST", "form"), r("GET", ""), r("GET", "query")},
		{r("POST", "query"), r("GET", "query"), r("GET", "query")},

		{r("GET", ""), r("POST", ""), r("POST", "form")},
		{r("", "json"), r("POST", ""), r("POST", "json")},
		{r("", "query"), r("POST", ""), r("POST", "query")},

		{r("GET", ""), r("", "form"), r("POST", "form")},
		{r("GET", "query"), r("", "json"), r("POST", "json")},
		{r("GET", ""), r("", "query"), r("GET", "query")},
		{r("", "json"), r("", "query"), r("POST", "query")},
		{r("", "json"), r("", "form"), r("POST", "form")},
		{r("GET", ""), r("POST", "json"), r("POST", "json")},
	} {
		got := c.refresh.Inherit(c.token)
		if got.Method != c.want.Method || got.Encoding != c.want.Encoding {
			t.Errorf("token_request %+v, refresh_request %+v: got %s %s, want %s %s",
				c.token, c.refresh, got.Method, got.Encoding, c.want.Method, c.want.Encoding)
		}
	}
}

func TestARefreshInheritsHeadersAndNeitherURLNorParameters(t *testing.T) {
	t.Parallel()
	token := Request{URL: "https://x", Header: []Header{{"A", "1"}, {"B", "1"}}, Params: []Param{param("p", "1")}}
	refresh := Request{Header: []Header{{"B", "2"}}, Params: []Param{param("q", "2")}}
	got := refresh.Inherit(token)
	if want := []Header{{"A", "1"}, {"B", "1"}, {"B", "2"}}; !slices.Equal(got.Header, want) {
		t.Errorf("headers %v, want %v", got.Header, want)
	}
	if got.URL != "" || len(got.Params) != 1 || got.Params[0].Name != "q" {
		t.Errorf("inherited a URL or parameters: %+v", got)
	}
	got.Header[0].Value = "changed"
	if token.Header[0].Value != "1" || refresh.Header[0].Value != "2" {
		t.Error("the configured headers were changed")
	}
}

// TestOneObtainIsOneRequestAlsoWhenAKeptConnectionBreaks holds net/http back
// from sending again what a provider may have got: a login is counted, and a
// refresh token that arrives twice is taken for stolen.
func TestOneObtainIsOneRequestAlsoWhenAKeptConnectionBreaks(t *testing.T) {
	t.Parallel()
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, place := range []Request{{}, {Encoding: "json"}, {Encoding: "query"}, {Method: "GET"}} {
		t.Run(place.Method+place.Encoding, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, issue("at-1", ""), hangUp, issue("at-2", ""))
			p.Config.ErrorLog = nil
			c := client(p)
			c.TokenRequest = place
			s := newSource(t, c)
			token, failure := ask(t, s, nil)
			first := must(t, token, failure)

			token, failure = ask(t, s, first)
			e := mustFail(t, token, failure)
			if got := len(p.arrived()); got != 2 {
				t.Errorf("the broken request was sent %d times", got-1)
			}
			if e.Permanent || e.StatusCode != 0 || !strings.Contains(e.Reason, "closed before an answer came") {
				t.Errorf("got %#v, want a passing error that says what happened", describe(e))
			}
			token, failure = ask(t, s, first)
			if got := must(t, token, failure); got.AccessToken != "at-2" {
				t.Errorf("got %q afterwards", got.AccessToken)
			}
			if got := p.arrived()[2]; place.Method == "GET" && (got.header.Get("Content-Length") != "" || got.header.Get("Transfer-Encoding") != "") {
				t.Errorf("a GET announces a body: %v", got.header)
			}
		})
	}
}

func TestAGETHasNoBodyOverHTTP2Either(t *testing.T) {
	t.Parallel()
	p := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Method != http.MethodGet || r.ContentLength != 0 {
			t.Errorf("arrived %s %s with a body of %d bytes", r.Proto, r.Method, r.ContentLength)
		}
		issue("at", "")(w, r)
	}))
	p.EnableHTTP2 = true
	p.StartTLS()
	defer p.Close()
	c := Config{
		Grant: "client_credentials", ClientID: "c", ClientSecret: "s", TokenURL: p.URL + "/token",
		Transport: p.Client().Transport, TokenRequest: Request{Method: http.MethodGet},
	}
	s := newSource(t, c)
	for range 2 {
		token, failure := ask(t, s, nil)
		must(t, token, failure)
	}
}

func TestARefusalIsOneRequest(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 301, 307, 308, 400, 401, 403, 404, 408, 425, 429, 500, 503} {
		p := newProvider(t, reply(status, `{"error":"invalid_client"}`, "Location", "/elsewhere", "Retry-After", "0", "WWW-Authenticate", "Basic"))
		token, failure := obtain(t, client(p), nil)
		mustFail(t, token, failure)
		if got := len(p.arrived()); got != 1 {
			t.Errorf("status %d: %d requests", status, got)
		}
	}
}

func TestASourceServesManyAtOnce(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	c := client(p)
	c.Lookup = func(name string) (string, bool) { return "v-" + name, strings.HasPrefix(name, "env.") }
	c.Params = []Param{param("a", "{env.A}")}
	c.TokenRequest = Request{Encoding: "json", Header: []Header{{"X", "{env.X}"}}, Params: []Param{paramJSON("j", `{"k":"{env.K}"}`)}}
	c.RefreshRequest = &Request{Header: []Header{{"Y", "{env.Y}"}}, Params: []Param{paramJSON("j", `{"k":"{refresh_token}"}`)}}
	s := newSource(t, c)
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			previous := &Token{RefreshToken: fmt.Sprint("rt-", i)}
			if i%2 == 0 {
				previous = nil
			}
			_, err := s.Obtain(context.Background(), previous)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	seen := map[string]int{}
	for _, r := range p.arrived() {
		seen[r.body]++
	}
	if len(seen) != 9 || seen[`{"a":"v-env.A","grant_type":"client_credentials","j":{"k":"v-env.K"}}`] != 8 {
		t.Errorf("arrived: %v", seen)
	}
}

func TestAnUnknownGrantIsAnError(t *testing.T) {
	t.Parallel()
	if s, err := New(Config{Grant: "implicit"}); err == nil || s != nil {
		t.Errorf("got %v, %v", s, err)
	}
	if _, ok := GrantByName("implicit"); ok {
		t.Error("implicit is a grant")
	}
	var e *Error
	if errors.As(error(&Error{Reason: "x"}), &e); e == nil {
		t.Error("an *Error is not found by errors.As")
	}
}

// TestWhatAFileHoldsDoesNotChangeTheHostOfAnEndpoint is of placeholders that stand in
// the host of a URL, as a provider's entry has them.
func TestWhatAFileHoldsDoesNotChangeTheHostOfAnEndpoint(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{
		"acme": true, "acme-2.eu": true,
		"evil.example/x?": false, "evil.example#": false, "https://acme": false, "a@evil.example": false, `evil.example\`: false, "a b": false,
	} {
		for _, template := range []string{"https://{env.shop}/token", "https://{env.shop}.example.org/{env.shop}/token", "https://{env.shop}"} {
			c := Config{Grant: "client_credentials", ClientID: "crm", TokenURL: template, Lookup: newVault("env.shop", value).lookup}
			s := newSource(t, c)
			_, err := s.resolve(forToken, descent{}, "", nil, s.currentOther)
			if (err == nil) != good {
				t.Errorf("%q in %s: %v", value, template, err)
			}
			if err != nil && strings.Contains(err.Error(), value) {
				t.Errorf("the value stands in the error: %v", err)
			}
		}
	}
	s := newSource(t, Config{Grant: "client_credentials", ClientID: "crm", TokenURL: "https://{file./run/shop?}/token", Lookup: newVault("file./run/shop?", "evil.example/x").lookup})
	if _, err := s.resolve(forToken, descent{}, "", nil, s.currentOther); err == nil || !strings.Contains(err.Error(), "cannot be in a host's name") {
		t.Errorf("a placeholder with a question mark in its name: %v", err)
	}
}
