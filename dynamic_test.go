package injecttoken

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestWhatAnAnswerNamesIsDialedWhereItIsAHostAndFitsTheTransport(t *testing.T) {
	clear := new(Transport)
	secure := &Transport{HTTPTransport: reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ExceptPorts: []string{"8080"}}}}
	for _, c := range []struct {
		transport   *Transport
		value, want string // !: why not
	}{
		{secure, "https://acme.my.example.org", "acme.my.example.org:443"},
		{secure, "https://acme.my.example.org/", "acme.my.example.org:443"},
		{secure, "HTTPS://Acme.My.Example.ORG.:8443", "acme.my.example.org:8443"},
		{secure, "acme.my.example.org", "acme.my.example.org:443"},
		{secure, "acme.my.example.org:8443", "acme.my.example.org:8443"},
		{secure, "acme.my.example.org/", "acme.my.example.org:443"},
		{secure, "https://bücher.example.org", "xn--bcher-kva.example.org:443"},
		{secure, "https://[2001:db8::1]", "[2001:db8::1]:443"},
		{secure, "2001:db8::1", "[2001:db8::1]:443"},
		{secure, "192.0.2.1:444", "192.0.2.1:444"},
		{secure, "http://acme.example.org:8080", "acme.example.org:8080"},
		{clear, "http://127.0.0.1:8080", "127.0.0.1:8080"},
		{clear, "acme.example.org", "acme.example.org:80"},
		{clear, "http://acme.example.org", "acme.example.org:80"},
		// A path is told, and not used.
		{secure, "https://acme.example.org/services/data", "acme.example.org:443 …"},
		{secure, "https://acme.example.org?a=b", "acme.example.org:443 …"},
		{secure, "https://acme.example.org#a", "acme.example.org:443 …"},
		{secure, "acme.example.org/services", "acme.example.org:443 …"},

		{clear, "https://acme.example.org", "! it is reached by https, and the transport has no TLS; write transport http { tls }"},
		{secure, "https://acme.example.org:8080", "! it is reached by https, and the transport has no TLS; write transport http { tls }"},
		{secure, "http://acme.example.org", "! it is reached by http, and the transport has TLS"},
		{secure, "ftp://acme.example.org:21", "! the scheme is neither https nor http"},
		{secure, "unix://acme.example.org:21", "! the scheme is neither https nor http"},
		{secure, "", "!"},
		{secure, "https://", "!"},
		{secure, "https:///path", "!"},
		{secure, ":443", "!"},
		{secure, "acme.example.org:", "!"},
		{secure, "acme.example.org:0", "!"},
		{secure, "acme.example.org:65536", "!"},
		{secure, "acme.example.org:1-9", "!"},
		{secure, "acme.example.org:https", "!"},
		{secure, "acme..example.org", "!"},
		{secure, "acme example.org", "!"},
		{secure, "fe80::1%eth0", "!"},
		{secure, "https://user:password@acme.example.org", "!"},
		{secure, "user@acme.example.org", "!"},
		{secure, "https://evil.example\\@acme.example.org", "!"},
		{secure, "evil.example\\.acme.example.org", "!"},
		{secure, "{http.request.header.X-Host}", "!"},
		{secure, "https://{http.request.header.X-Host}.example.org", "!"},
		{secure, "{env.HOST}:443", "!"},
		{secure, "acme.example.org:{http.request.header.X-Port}", "!"},
		{secure, "//acme.example.org", "!"},
		{secure, "unix//run/api.sock", "!"},
		{secure, "tcp/acme.example.org:443", "!"},
	} {
		dial, pathless, err := c.transport.dialOf(c.value)
		got := dial
		if !pathless && err == nil {
			got += " …"
		}
		if err != nil {
			got = "! " + err.Error()
			if c.value != "" && strings.Contains(err.Error(), c.value) {
				t.Errorf("%q is shown: %v", c.value, err)
			}
		}
		if got != c.want && !(c.want == "!" && err != nil && dial == "") && !slices.Contains([]string{"unix//run/api.sock", "tcp/acme.example.org:443"}, c.value) {
			t.Errorf("%q is dialed as %q, want %q", c.value, got, c.want)
		}
	}
	// What looks like a network of Caddy is the name of a host, and no file.
	for value, want := range map[string]string{"unix//run/api.sock": "unix:443", "tcp/acme.example.org:443": "tcp:443"} {
		if dial, _, err := secure.dialOf(value); err != nil || dial != want {
			t.Errorf("%q is dialed as %q, %v; want %q", value, dial, err, want)
		}
	}
}

func FuzzDialOf(f *testing.F) {
	for _, seed := range []string{"https://acme.example.org", "a:1", "[::1]:80", "{x}", "https://a@b", "a/b", "ä.example"} {
		f.Add(seed)
	}
	t := &Transport{HTTPTransport: reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}}
	f.Fuzz(func(test *testing.T, value string) {
		dial, _, err := t.dialOf(value)
		if err == nil && strings.Trim(dial, "abcdefghijklmnopqrstuvwxyz0123456789.-_:[]") != "" {
			test.Errorf("%q is dialed as %q", value, dial)
		}
	})
}
