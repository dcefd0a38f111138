package provider

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A sent is a token request as a client without our help would send it.
type sent struct {
	method string
	query  string
	body   string
	header http.Header
}

const form = "application/x-www-form-urlencoded"

func post(body string, header http.Header) sent {
	header = header.Clone()
	if body != "" {
		if header == nil {
			header = http.Header{}
		}
		header.Set("Content-Type", form)
	}
	return sent{method: http.MethodPost, body: body, header: header}
}

func basic(user, pass string) http.Header {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(pass))
	return r.Header
}

// with returns the request changed by a function.
func (s sent) with(change func(*sent)) sent {
	s.header = s.header.Clone()
	if s.header == nil {
		s.header = http.Header{}
	}
	change(&s)
	return s
}

// ask sends it and returns the status, the answer's text and, where that is
// JSON, its error code.
func (s sent) ask(t *testing.T, p *Provider) (status int, text, code string) {
	t.Helper()
	req, err := http.NewRequest(s.method, p.TokenURL(), strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.RawQuery = s.query
	for name, values := range s.header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &answer)
	return resp.StatusCode, string(body), answer.Error
}

// documented are requests as the four documents describe them. REFRESH stands
// for a refresh token of the provider.
var documented = []struct {
	name    string
	dialect Dialect
	request sent
}{
	{"affinitylive", AffinityLive, post("grant_type=refresh_token&refresh_token=REFRESH", basic(ClientID, ClientSecret))},
	{"affinitylive, credentials in the query", AffinityLive, sent{
		method: http.MethodPost, query: client, body: "grant_type=refresh_token&refresh_token=REFRESH", header: http.Header{"Content-Type": {form}},
	}},
	{"organization", Organization, post("grant_type=client_credentials", basic(ClientID, ClientSecret))},
	{"organization, refreshed", Organization, post("grant_type=refresh_token&refresh_token=REFRESH", basic(ClientID, ClientSecret))},
	{"organization by query", Organization, sent{method: http.MethodPost, query: "grant_type=client_credentials&" + client}},
	{"organization by query, refreshed", Organization, sent{method: http.MethodPost, query: "grant_type=refresh_token&refresh_token=REFRESH&" + client}},
	{"configapi", ConfigAPI, post("grant_type=client_credentials&tenant=example.com&"+client, nil)},
	{"axosoft", Axosoft, sent{method: http.MethodGet, query: login + "&scope=read+write"}},
	{"axosoft without a scope", Axosoft, sent{method: http.MethodGet, query: login}},
}

const client = "client_id=" + ClientID + "&client_secret=" + ClientSecret

var login = "grant_type=password&" + client + "&" + url.Values{"username": {Username}, "password": {Password}}.Encode()

func (s sent) filled(p *Provider) sent {
	token := p.IssueRefreshToken()
	s.query, s.body = strings.ReplaceAll(s.query, "REFRESH", token), strings.ReplaceAll(s.body, "REFRESH", token)
	return s
}

func TestWhatTheDocumentsDescribeIsTaken(t *testing.T) {
	for _, d := range documented {
		t.Run(d.name, func(t *testing.T) {
			p := New(t, d.dialect)
			if status, text, _ := d.request.filled(p).ask(t, p); status != http.StatusOK {
				t.Errorf("answered %d %s", status, text)
			}
			p.AssertStrict()
		})
	}
}

// mistakes are made with each of the documented requests: each is refused and
// recorded.
var mistakes = map[string]func(*sent){
	"another method": func(s *sent) {
		s.method = map[string]string{http.MethodPost: http.MethodPut, http.MethodGet: http.MethodPost}[s.method]
	},
	"a parameter that is not described": func(s *sent) { s.addParameter("audience=x") },
	"a parameter twice":                 func(s *sent) { s.addParameter("grant_type=client_credentials") },
	"a parameter is missing":            func(s *sent) { s.dropParameter("grant_type") },
	"a parameter that cannot be read":   func(s *sent) { s.addParameter("a=%zz") },
	"the secret in a second place": func(s *sent) {
		if s.header.Get("Authorization") == "" {
			s.header.Set("Authorization", basic(ClientID, ClientSecret).Get("Authorization"))
		} else {
			s.query = client
		}
	},
	"another scheme": func(s *sent) { s.header.Set("Authorization", "Bearer "+ClientSecret) },
	"credentials twice": func(s *sent) {
		value := basic(ClientID, ClientSecret).Get("Authorization")
		s.header["Authorization"] = []string{value, value}
	},
	"another content type": func(s *sent) { s.header.Set("Content-Type", "application/json") },
}

func (s *sent) parameters() *string {
	if s.body != "" {
		return &s.body
	}
	return &s.query
}

func (s *sent) addParameter(pair string) { *s.parameters() += "&" + pair }

func (s *sent) dropParameter(name string) {
	var kept []string
	for pair := range strings.SplitSeq(*s.parameters(), "&") {
		if !strings.HasPrefix(pair, name+"=") {
			kept = append(kept, pair)
		}
	}
	*s.parameters() = strings.Join(kept, "&")
}

func TestWhatTheDocumentsDoNotDescribeIsRefusedAndRecorded(t *testing.T) {
	for _, d := range documented {
		for name, mistake := range mistakes {
			t.Run(d.name+"/"+name, func(t *testing.T) {
				p := New(t, d.dialect)
				status, text, _ := d.request.filled(p).with(mistake).ask(t, p)
				if status != http.StatusBadRequest {
					t.Errorf("answered %d %s", status, text)
				}
				if n := len(p.Violations()); n != 1 {
					t.Errorf("recorded %d violations: %v", n, p.Violations())
				}
			})
		}
	}
}

func TestADocumentsOwnMistakesAreRefused(t *testing.T) {
	for _, m := range []struct {
		name    string
		dialect Dialect
		request sent
	}{
		{"organization: the query beside a form", Organization, sent{method: http.MethodPost, query: client, body: "grant_type=client_credentials", header: http.Header{"Content-Type": {form}}}},
		{"organization: all in the form", Organization, post("grant_type=client_credentials&"+client, nil)},
		{"configapi: no tenant", ConfigAPI, post("grant_type=client_credentials&"+client, nil)},
		{"configapi: another tenant", ConfigAPI, post("grant_type=client_credentials&tenant=example.org&"+client, nil)},
		{"configapi: Basic", ConfigAPI, post("grant_type=client_credentials&tenant=example.com", basic(ClientID, ClientSecret))},
		{"configapi: the query", ConfigAPI, sent{method: http.MethodPost, query: "grant_type=client_credentials&tenant=example.com&" + client}},
		{"axosoft: a form", Axosoft, post(login, nil)},
		{"affinitylive: a scope, which belongs to the authorization", AffinityLive, post("grant_type=refresh_token&refresh_token=REFRESH&scope=read", basic(ClientID, ClientSecret))},
	} {
		t.Run(m.name, func(t *testing.T) {
			p := New(t, m.dialect)
			if status, text, _ := m.request.filled(p).ask(t, p); status != http.StatusBadRequest || len(p.Violations()) != 1 {
				t.Errorf("answered %d %s; violations: %v", status, text, p.Violations())
			}
		})
	}
}

func TestWrongCredentialsAreRefusedAndNoViolation(t *testing.T) {
	for _, d := range documented {
		t.Run(d.name, func(t *testing.T) {
			p := New(t, d.dialect)
			p.Set(func(k *Knobs) { k.Secret = "changed" })
			want := http.StatusUnauthorized
			if strings.HasPrefix(d.name, "axosoft") {
				want = http.StatusBadRequest
			}
			status, text, code := d.request.filled(p).ask(t, p)
			if status != want || code != "invalid_client" {
				t.Errorf("answered %d %s", status, text)
			}
			p.AssertStrict()
		})
	}
	for request, want := range map[string]string{
		strings.Replace(login, "password=correct", "password=wrong", 1):              "invalid_grant",
		login + "&scope=read,write":                                                  "invalid_scope",
		strings.Replace(login, "grant_type=password", "grant_type=refresh_token", 1): "unsupported_grant_type",
	} {
		p := New(t, Axosoft)
		status, text, code := sent{method: http.MethodGet, query: request}.ask(t, p)
		if status != http.StatusBadRequest || code != want || !strings.Contains(text, "error_description") {
			t.Errorf("answered %d %s, want %s", status, text, want)
		}
	}
}

func TestAnswersAreAsTheDocumentsHaveThem(t *testing.T) {
	answer := func(dialect Dialect, request sent) string {
		p := New(t, dialect)
		p.Set(func(k *Knobs) { k.Lifetime = 3599 * time.Second })
		_, text, _ := request.ask(t, p)
		return text
	}
	if got := answer(ConfigAPI, documented[6].request); !strings.HasSuffix(got, `"token_type":"Bearer", "expires_in":"3599", }`) {
		t.Errorf("configapi answered %s", got)
	}
	if got := answer(Axosoft, documented[7].request); strings.Contains(got, "expires") || !strings.Contains(got, `"data":{`) {
		t.Errorf("axosoft answered %s", got)
	}
}

func TestARefreshTokenIsTakenOnceWhereTheyRotate(t *testing.T) {
	p := New(t, Organization)
	p.Set(func(k *Knobs) { k.Rotate = true })
	request := documented[3].request.filled(p)
	if status, text, _ := request.ask(t, p); status != http.StatusOK || !strings.Contains(text, "refresh_token") {
		t.Fatalf("answered %d %s", status, text)
	}
	if _, text, code := request.ask(t, p); code != "invalid_grant" || p.Reused() != 1 {
		t.Errorf("a spent refresh token was answered %s, and counted %d times", text, p.Reused())
	}
	dead := documented[3].request.filled(p)
	p.RevokeRefreshTokens()
	if _, text, code := dead.ask(t, p); code != "invalid_grant" || p.Reused() != 1 {
		t.Errorf("a revoked refresh token was answered %s, and counted as spent %d times", text, p.Reused()-1)
	}
	p.AssertStrict()
}
