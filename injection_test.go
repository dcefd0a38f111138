package injecttoken

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestOnlyOurParameterIsTakenOutOfAQuery(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{"", ""},
		{"b=2&a=1;c=3&d&e=%zz&f=a%20b+c", "b=2&a=1;c=3&d&e=%zz&f=a%20b+c"},
		{"access_token=x", ""},
		{"access_token", ""},
		{"a=1&access_token=x&b=2", "a=1&b=2"},
		{"access_token=x&a=1", "a=1"},
		{"a=1&access_token=x", "a=1"},
		{"access_token=1&access_token=2&a=1&access_token=3", "a=1"},
		{"access%5Ftoken=x&a=1", "a=1"},
		{"%61ccess_token=x&a=1", "a=1"},
		{"ACCESS_TOKEN=x&a=1", "a=1"},
		{"access_token[]=x&access_token%5B0%5D=y&a[access_token]=1", "a[access_token]=1"},
		{"a=1;access_token=x;b=2", "a=1;b=2"},
		{"xaccess_token=x&access_tokenx=y", "xaccess_token=x&access_tokenx=y"},
		{"a=access_token=x", "a=access_token=x"},
		{"&&a=1&&", "&&a=1&&"},
		{"%zz=1&access_token=x", "%zz=1"},
	} {
		if got := withoutParams(c.query, []string{"access_token"}); got != c.want {
			t.Errorf("%q became %q, want %q", c.query, got, c.want)
		}
	}
}

func TestTheTokenIsTakenOutOfReflectedURLs(t *testing.T) {
	in, m := newInjection(nil, []string{"access_token"})
	if m != nil {
		t.Fatal(m)
	}
	token := &tokensource.Token{AccessToken: "s3cr3t/t+ken"}
	for _, c := range []struct{ value, want string }{
		{"/a/?access_token=s3cr3t%2Ft%2Bken", "/a/"},
		{"/a/?b=1&access_token=s3cr3t%2Ft%2Bken&c=2#d", "/a/?b=1&c=2#d"},
		{"https://api.example.org/a?access_token=s3cr3t/t+ken#top", "https://api.example.org/a#top"},
		{`</a?access_token=x>; rel="next", </b?c=1&access_token=x>; rel="last"`, `</a>; rel="next", </b?c=1>; rel="last"`},
		{"5; url=/a?access_token=x", "5; url=/a"},
		{"/login?next=%2Fa%3Faccess_token%3Ds3cr3t%252Ft%252Bken", "/login?next=%2Fa%3Faccess_token%3D"},
		{"/plain?q=1", "/plain?q=1"},
		{"/empty?", "/empty?"},
	} {
		for _, field := range reflecting {
			header := http.Header{field: {c.value}}
			in.scrub(header, token)
			if got := header.Get(field); got != c.want {
				t.Errorf("%s: %q became %q, want %q", field, c.value, got, c.want)
			}
		}
	}
}

func TestACallersOwnCredentialIsRemovedInEveryDisguise(t *testing.T) {
	in, m := newInjection([]HeaderInjection{{Field: "x-api-key"}, {Field: "Authorization"}}, []string{"key"})
	if m != nil {
		t.Fatal(m)
	}
	req := newTestRequest(t, http.MethodGet, "key=own&a=1&KEY=own", nil)
	for _, field := range []string{"X-Api-Key", "X_api_key", "x-API-key", "X.Api.Key", "Authorization"} {
		req.Header[field] = []string{"own", "own"}
	}
	req.Header.Set("X-Other", "stays")
	out := in.clean(req)
	in.put(out, &tokensource.Token{AccessToken: "ours"})
	want := http.Header{"X-Api-Key": {"ours"}, "Authorization": {"Bearer ours"}, "X-Other": {"stays"}}
	if len(out.Header) != len(want) {
		t.Errorf("sent %v, want %v", out.Header, want)
	}
	for field := range want {
		if out.Header.Get(field) != want.Get(field) || len(out.Header[field]) != 1 {
			t.Errorf("%s: sent %q, want %q", field, out.Header[field], want[field])
		}
	}
	if out.URL.RawQuery != "a=1&key=ours" {
		t.Errorf("sent the query %q", out.URL.RawQuery)
	}
}

func TestHeaderValuesFollowTheToken(t *testing.T) {
	in, m := newInjection([]HeaderInjection{{Field: "Authorization", Format: "token {token}"}}, nil)
	if m != nil {
		t.Fatal(m)
	}
	for _, access := range []string{"one", "two", "one"} {
		out := in.clean(newTestRequest(t, http.MethodGet, "", nil))
		in.put(out, &tokensource.Token{AccessToken: access})
		if got := out.Header.Get("Authorization"); got != "token "+access {
			t.Errorf("sent %q with the token %s", got, access)
		}
	}
}

func TestAllowedHosts(t *testing.T) {
	for _, c := range []struct {
		pattern, host, port string
		want                bool
	}{
		{"api.example.org", "api.example.org", "443", true},
		{"api.example.org", "API.Example.ORG", "443", true},
		{"api.example.org", "api.example.org.evil.net", "443", false},
		{"*.example.org", "a.example.org", "443", true},
		{"*.example.org", "a.b.example.org", "443", false},
		{"*.example.org", "example.org", "443", false},
		{"*.example.org", ".example.org", "443", false},
		{"api.example.org:8443", "api.example.org", "8443", true},
		{"api.example.org:8443", "api.example.org", "443", false},
		{"127.0.0.1:80", "127.0.0.1", "80", true},
		{"[::1]:80", "::1", "80", true},
		{"::1", "::1", "80", true},
	} {
		if got := hostAllowed(c.host, c.port, []string{"other.example.net", c.pattern}); got != c.want {
			t.Errorf("pattern %s, host %s:%s: %v, want %v", c.pattern, c.host, c.port, got, c.want)
		}
	}
}

func FuzzWithoutParams(f *testing.F) {
	for _, seed := range []string{"b=2&a=1;c=3&d&e=%zz&f=a%20b+c", "access_token=x&a=1", "&;=&access%5ftoken", "?#%"} {
		f.Add(seed)
	}
	names := []string{"access_token"}
	f.Fuzz(func(t *testing.T, query string) {
		out := withoutParams(query, names)
		if again := withoutParams(out, names); again != out {
			t.Errorf("%q became %q, and again %q", query, out, again)
		}
		for _, pair := range strings.FieldsFunc(out, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(pair, "=")
			if decoded, err := url.QueryUnescape(name); err == nil && strings.EqualFold(decoded, "access_token") {
				t.Errorf("%q still holds the parameter: %q", query, out)
			}
		}
		if !strings.Contains(strings.ToLower(query), "token") && !strings.Contains(query, "%") && out != query {
			t.Errorf("%q became %q", query, out)
		}
	})
}
