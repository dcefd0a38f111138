package injecttoken

import (
	"encoding/base64"
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
	in, m := newInjection(nil, []string{"access_token"}, nil)
	if m != nil {
		t.Fatal(m)
	}
	token := &tokensource.Token{AccessToken: "s3cr3t/t+ken"}
	for _, c := range []struct{ field, value, want string }{
		{"Location", "/a/?access_token=s3cr3t%2Ft%2Bken", "/a/"},
		{"Content-Location", "/a/?b=1&access_token=s3cr3t%2Ft%2Bken&c=2#d", "/a/?b=1&c=2#d"},
		{"Location", "https://api.example.org/a?access_token=s3cr3t/t+ken#top", "https://api.example.org/a#top"},
		{"Location", "/in/?a=1,2&access_token=s3cr3t/t%2Bken", "/in/?a=1,2"},
		{"Link", `</a?access_token=x>; rel="next", </b?c=1,2&access_token=x>; rel="last"`, `</a>; rel="next", </b?c=1,2>; rel="last"`},
		{"Refresh", "5; url=/a?access_token=x", "5; url=/a"},
		{"Refresh", `5; url="/a?access_token=x"`, `5; url="/a"`},
		{"Location", "/login?next=%2Fa%3Faccess_token%3Ds3cr3t%252Ft%252Bken", "/login?next=%2Fa%3Faccess_token%3D[redacted]"},
		{"Location", "/login?next=%2fa%3faccess_token%3ds3cr3t%252ft%252bken", "/login?next=%2fa%3faccess_token%3d[redacted]"},
		{"X-Request-Url", "/a?access_token=s3cr3t%2Ft%2Bken", "/a?access_token=[redacted]"},
		{"Www-Authenticate", `Bearer error_description="s3cr3t/t+ken has ended"`, `Bearer error_description="[redacted] has ended"`},
		{"Location", "/plain?q=1", "/plain?q=1"},
		{"Location", "/empty?", "/empty?"},
		{"Location", "?access_token=x", "?"},
	} {
		header := http.Header{c.field: {c.value}}
		in.scrub(header, newHidden(token.AccessToken))
		if got := header.Get(c.field); got != c.want {
			t.Errorf("%s: %q became %q, want %q", c.field, c.value, got, c.want)
		}
	}
	header := http.Header{"Location": {"/login?state=" + base64.StdEncoding.EncodeToString([]byte("/a?access_token=s3cr3t/t+ken"))}}
	in.scrub(header, newHidden(token.AccessToken))
	if left, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(header.Get("Location"), "/login?state=")); strings.Contains(string(left), "s3cr3t") {
		t.Errorf("the token is left in %s", header.Get("Location"))
	}
}

func TestACallersOwnCredentialIsRemovedInEveryDisguise(t *testing.T) {
	in, m := newInjection([]HeaderInjection{{Field: "x-api-key"}, {Field: "Authorization"}}, []string{"key"}, nil)
	if m != nil {
		t.Fatal(m)
	}
	req := newTestRequest(t, http.MethodGet, "key=own&a=1&KEY=own", nil)
	for _, field := range []string{"X-Api-Key", "X_api_key", "x-API-key", "X.Api.Key", "X~Api'Key", "Authorization"} {
		req.Header[field] = []string{"own", "own"}
	}
	req.Header.Set("X-Other", "stays")
	_, out := in.newAttempt(req)
	in.clean(out)
	in.put(out, in.form("crm", &tokensource.Token{AccessToken: "ours"}, nil))
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
	in, m := newInjection([]HeaderInjection{{Field: "Authorization", Format: "token {token}"}}, nil, nil)
	if m != nil {
		t.Fatal(m)
	}
	for _, access := range []string{"one", "two", "one"} {
		_, out := in.newAttempt(newTestRequest(t, http.MethodGet, "", nil))
		in.clean(out)
		in.put(out, in.form("crm", &tokensource.Token{AccessToken: access}, nil))
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
