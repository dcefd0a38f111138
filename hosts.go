package injecttoken

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// pinHost has a forward proxy take a request to its upstream. A proxy of plain
// HTTP goes where Host says, which may be the caller's.
func (t *Transport) pinHost(out *http.Request) {
	t.SetScheme(out)
	beneath := t.HTTPTransport.Transport
	if out.URL.Scheme != "http" || beneath == nil || beneath.Proxy == nil {
		return
	}
	if proxy, err := beneath.Proxy(out); err == nil && proxy != nil && strings.HasPrefix(proxy.Scheme, "http") {
		out.Host = out.URL.Host
	}
}

// allowed says whether the host that will be dialed may get the token. A file or
// a descriptor of this machine is none.
func (t *Transport) allowed(req *http.Request) bool {
	dial, ok := reverseproxy.GetDialInfo(req.Context())
	if !ok {
		return hostAllowed(req.URL.Hostname(), req.URL.Port(), t.AllowHosts)
	}
	return isTCP(dial.Network) && hostAllowed(dial.Host, dial.Port, t.AllowHosts)
}

// followsElsewhere says whether a health check follows a redirect that leads
// away from where it began: to another host or port, or out of TLS.
func followsElsewhere(req *http.Request) bool {
	first := req
	for first.Response != nil {
		if first = first.Response.Request; first == nil {
			return true // not known
		}
	}
	return req.URL.Scheme != first.URL.Scheme || req.URL.Host != first.URL.Host
}

// checkHostPattern refuses what could never match.
func checkHostPattern(pattern string) *mistake {
	host, port := splitHostPort(pattern)
	if host == "" || host == "*" || strings.ContainsAny(pattern, "/{} ") {
		return wrong("allow_hosts", "%q is not a host such as api.example.org, *.example.org or 10.0.0.1:8443", pattern)
	}
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil || strings.HasSuffix(pattern, ":") {
		return wrong("allow_hosts", "the port of %q is not a number", pattern)
	}
	return nil
}

// hostAllowed says whether a host, with its port, matches one of the patterns.
// As in Caddy's host matcher, * stands for one label. A pattern without a port
// allows every port.
func hostAllowed(host, port string, patterns []string) bool {
	for _, pattern := range patterns {
		wantHost, wantPort := splitHostPort(pattern)
		if wantPort != "" && wantPort != port {
			continue
		}
		if labelsMatch(normalHost(host), normalHost(wantHost)) {
			return true
		}
	}
	return false
}

func labelsMatch(host, pattern string) bool {
	have, want := strings.Split(host, "."), strings.Split(pattern, ".")
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && (want[i] != "*" || !isLabel(have[i])) {
			return false
		}
	}
	return true
}

// isLabel says whether a text can be one label of a name. In other letters there
// are several ways to write the same name.
func isLabel(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f || !isDigit(byte(r)) })
}

// splitHostPort is net.SplitHostPort for what may have no port.
func splitHostPort(text string) (host, port string) {
	if i := strings.LastIndexByte(text, ':'); i >= 0 && strings.IndexByte(text, ':') == i || strings.Contains(text, "]:") {
		host, port = text[:i], text[i+1:]
	} else {
		host = text
	}
	return strings.Trim(host, "[]"), port
}
