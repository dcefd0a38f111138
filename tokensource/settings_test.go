package tokensource

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestAnEndpointIsWhatNoOneElseCanReadOn(t *testing.T) {
	t.Parallel()
	const (
		whole    = "a whole URL is needed, such as https://auth.example.org/token"
		none     = "this is not a URL"
		hostless = "the URL has no host"
		user     = "the URL holds a user name; use client_id, client_secret and client_auth"
		fragment = "the URL has a fragment (#…), which cannot be sent"
		plain    = "plain http would show the credentials to the network; use https, or write insecure_http if this must be"
	)
	for _, c := range []struct{ url, secure, insecure string }{
		{"https://auth.example.org/token", "", ""},
		{"https://auth.example.org", "", ""},
		{"HTTPS://AUTH.EXAMPLE.ORG:8443/a?b=c&d=%zz", "", ""},
		{"https://[2001:db8::1]:8443/token", "", ""},
		{"https://203.0.113.1/token", "", ""},
		{"http://127.0.0.1/token", "", ""},
		{"http://127.0.0.2:8080/token", "", ""},
		{"http://[::1]/token", "", ""},
		{"http://[::ffff:127.0.0.1]:80/token", "", ""},
		{"http://localhost:9000/token", "", ""},
		{"http://localhost./token", "", ""},
		{"http://LocalHost/token", "", ""},
		{"http://auth.localhost/token", "", ""},

		{"http://auth.example.org/token", plain, ""},
		{"HTTP://auth.example.org/token", plain, ""},
		{"http://203.0.113.1/token", plain, ""},
		{"http://[2001:db8::1]/token", plain, ""},
		{"http://0.0.0.0/token", plain, ""},
		{"http://[::]/token", plain, ""},
		{"http://127.0.0.1.example.org/token", plain, ""},
		{"http://localhost.example.org/token", plain, ""},
		{"http://notlocalhost/token", plain, ""},
		{"http://2130706433/token", plain, ""},

		{"", whole, whole},
		{"/token", whole, whole},
		{"auth.example.org/token", whole, whole},
		{"//auth.example.org/token", whole, whole},
		{"ftp://auth.example.org/token", whole, whole},
		{"localhost:8080/token", whole, whole},
		{"unix//run/token.sock", whole, whole},
		{"https:///token", hostless, hostless},
		{"https://:8443/token", hostless, hostless},
		{"https:auth.example.org", hostless, hostless},
		{"https://user@auth.example.org/", user, user},
		{"https://user:canary@auth.example.org/", user, user},
		{"http://127.0.0.1@auth.example.org/", user, user},
		{"http://localhost:80@auth.example.org/", user, user},
		{"https://auth.example.org/#token", fragment, fragment},
		{"https://auth.example.org/\ncanary", none, none},
		{"https://auth.example.org:canary/", none, none},
		{"https://[::1/token", none, none},
		{"https://%zz/canary", none, none},
		{" https://auth.example.org/canary", none, none},
		{"https://auth example.org/", none, none},
	} {
		for insecure, want := range map[bool]string{false: c.secure, true: c.insecure} {
			got := ""
			if err := CheckURL(c.url, insecure); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%q, insecure %v: %q, want %q", c.url, insecure, got, want)
			}
		}
	}
}

func TestLoopbackIsThisMachineAlone(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "localhost.": true, "a.localhost": true, "a.b.LocalHost.": true,
		"127.0.0.1": true, "127.0.0.2": true, "127.255.255.254": true, "::1": true, "::ffff:127.0.0.1": true, "::ffff:127.9.9.9": true,
		"0:0:0:0:0:0:0:1": true,

		"": false, ".": false, "localhost.example.org": false, "xlocalhost": false, "localhost..": false, "example.org": false,
		"128.0.0.1": false, "126.255.255.255": false, "10.0.0.1": false, "0.0.0.0": false, "::": false, "::2": false, "fe80::1": false,
		"::ffff:10.0.0.1": false, "127.1": false, "0x7f.0.0.1": false, "127.0.0.1.nip.io": false, "2130706433": false, "[::1]": false,
		"127.0.0.1:80": false, "localhost:80": false,
	} {
		if got := IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v", host, got)
		}
	}
}

// nobody must not be asked.
func nobody(t *testing.T) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		t.Errorf("a request was sent to %s", r.URL.Host)
		return nil, http.ErrHandlerTimeout
	})
}

func TestAResolvedURLIsCheckedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ template, value, want string }{
		{"{env.URL}", "http://auth.example.org/canary", "plain http would show"},
		{"{env.URL}", "canary", "a whole URL is needed"},
		{"{env.URL}", "https://user:canary@auth.example.org/", "the URL holds a user name"},
		{"{env.URL}", "https://auth.example.org/#canary", "the URL has a fragment"},
		{"https://{env.URL}/token", "auth.example.org/#canary", "what the placeholder {env.URL} stands for cannot be in a host's name"},
		{"http://{env.URL}/token", "127.0.0.1.example.org", "plain http would show"},
		{"http://127.0.0.1{env.URL}/token", "@auth.example.org", "what the placeholder {env.URL} stands for cannot be in a host's name"},
		{"https://{env.URL}/token", "auth.example.org\r\nX: canary", "what the placeholder {env.URL} stands for cannot be in a host's name"},
	} {
		for _, option := range []string{"token_url", "refresh_request url"} {
			v := newVault("env.URL", test.value)
			c := Config{Grant: "client_credentials", ClientID: "c", TokenURL: test.template, Lookup: v.lookup, Transport: nobody(t)}
			var previous *Token
			if option != "token_url" {
				c.TokenURL, c.RefreshRequest = "https://auth.example.org", &Request{URL: test.template}
				previous = withRefresh("rt")
			}
			token, failure := obtain(t, c, previous)
			e := mustFail(t, token, failure)
			if !strings.HasPrefix(e.Error(), option+": "+test.want) || strings.Contains(e.Error(), "canary") || !e.Permanent {
				t.Errorf("%s %s with %q: %q, permanent %v", option, test.template, test.value, e, e.Permanent)
			}
			if e.Changed() {
				t.Errorf("%s: changed already", option)
			}
			if v.set("env.URL", "https://auth.example.org"); test.template == "{env.URL}" && !e.Changed() {
				t.Errorf("%s: a corrected URL is no change", option)
			}
		}
	}
}

func TestPlainHTTPOffLoopbackIsSentWhereThatMustBe(t *testing.T) {
	t.Parallel()
	sent := ""
	c := Config{Grant: "client_credentials", ClientID: "c", TokenURL: "http://auth.example.org/token", InsecureHTTP: true,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = r.URL.String()
			return madeUp(200, `{"access_token":"at"}`), nil
		})}
	token, failure := obtain(t, c, nil)
	if must(t, token, failure); sent != c.TokenURL {
		t.Errorf("sent to %q", sent)
	}
}

func TestARefreshURLMayBeAPlaceholder(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	host := strings.TrimPrefix(p.URL, "http://")
	for template, target := range map[string]string{
		"{env.URL}":                 "/renew/a?b=c",
		"http://{env.HOST}/renew":   "/renew",
		p.URL + "/{env.PATH}/renew": "/t/1/renew",
		p.URL + "/r?{env.QUERY}&t=": "/r?x=1&y=2&t=",
		p.URL + "/{refresh_token}/{env.PATH}?r={refresh_token}": "/a%2Fb%3Fc%23d%20e/t/1?r=a%2Fb%3Fc%23d%20e",
	} {
		c := client(p)
		c.RefreshRequest = &Request{URL: template}
		c.Lookup = newVault("env.URL", p.URL+"/renew/a?b=c", "env.HOST", host, "env.PATH", "t/1", "env.QUERY", "x=1&y=2").lookup
		before := len(p.arrived())
		token, failure := obtain(t, c, withRefresh("a/b?c#d e"))
		must(t, token, failure)
		if got := p.arrived()[before].target; got != target {
			t.Errorf("%s: arrived at %s, want %s", template, got, target)
		}
	}
}

func TestARefreshTokenCannotChangeTheURL(t *testing.T) {
	t.Parallel()
	for _, token := range []string{
		"x?admin=1&a=b", "../../v1/other", "x#y", "a b+c", "%2e%2e%2f", "@evil.example", "\r\nX: y", "ä€", "a&refresh_token=other", "//evil.example", `\evil`,
	} {
		p := newProvider(t, issue("at", ""))
		c := client(p)
		c.RefreshRequest = &Request{URL: p.URL + "/v2/{refresh_token}/end?first=1&t={refresh_token}&last=1"}
		got, failure := obtain(t, c, withRefresh(token))
		must(t, got, failure)
		target, err := url.ParseRequestURI(p.only(t).target)
		if err != nil {
			t.Errorf("%q: %v", token, err)
			continue
		}
		if want := "/v2/" + token + "/end"; target.Path != want || strings.Count(target.EscapedPath(), "/") != 3 {
			t.Errorf("%q: the path is %q", token, target.EscapedPath())
		}
		query := target.Query()
		if len(query) != 3 || query.Get("t") != token || query.Get("last") != "1" || strings.Contains(target.RawQuery, "+") {
			t.Errorf("%q: the query is %q", token, target.RawQuery)
		}
	}
}

func TestAWrongURLIsNamedByItsOption(t *testing.T) {
	t.Parallel()
	c := Config{Grant: "client_credentials", ClientID: "c", TokenURL: "https://auth.example.org/", Transport: nobody(t),
		RefreshRequest: &Request{URL: "{env.URL}"}, Lookup: newVault().lookup}
	token, failure := obtain(t, c, withRefresh("rt"))
	if e := mustFail(t, token, failure); e.Error() != "refresh_request url: the placeholder {env.URL} is empty or cannot be read" {
		t.Errorf("got %q", e)
	}
}

func TestPlaceholdersOfARequestAreFoundWhereverTheyStand(t *testing.T) {
	t.Parallel()
	const name = "refresh_token"
	for _, r := range []Request{
		{URL: "https://x/{refresh_token}"},
		{Header: []Header{{"A", "b"}, {"X", "Bearer {refresh_token}"}}},
		{Params: []Param{param("a", "b"), param("x", "{refresh_token}")}},
		{Params: []Param{paramJSON("x", `{"a":["{refresh_token}"]}`)}},
	} {
		if !r.Places(name) {
			t.Errorf("not found in %+v", r)
		}
	}
	for _, r := range []Request{
		{}, {URL: "https://x/refresh_token"}, {Header: []Header{{"{refresh_token}", "a"}}}, {Params: []Param{param("{refresh_token}", `\{refresh_token}`)}},
		{Params: []Param{param("a", "{refresh_"), param("b", "token}")}},
	} {
		if r.Places(name) {
			t.Errorf("found in %+v", r)
		}
	}
}
