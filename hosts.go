package injecttoken

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddytoken/inject-token/tokensource"
)

// checkAllowHosts wants allow_hosts where the address of an upstream is not
// known from the configuration.
func checkAllowHosts(handler *reverseproxy.Handler, allowed []string) *mistake {
	open := hasBraces(handler.DynamicUpstreamsRaw)
	for _, upstream := range handler.Upstreams {
		if strings.Contains(upstream.Dial, "{") {
			open = true
			continue
		}
		address, err := caddy.ParseNetworkAddressWithDefaults(upstream.Dial, "tcp", 0)
		if len(allowed) > 0 && err == nil && !(isTCP(address.Network) && hostAllowed(address.Host, portOf(address), allowed)) {
			return wrong("allow_hosts", "the upstream %s is not allowed by it, so that all requests would be refused", upstream.Dial)
		}
	}
	if open && len(allowed) == 0 {
		return wrong("allow_hosts", "missing; the address of an upstream holds a placeholder, so say which hosts may get the token, such as allow_hosts *.example.org")
	}
	return nil
}

func isTCP(network string) bool { return strings.HasPrefix(network, "tcp") }

// hasBraces says whether a text in a JSON value holds a brace, as placeholders
// do, whatever they are named.
func hasBraces(raw json.RawMessage) bool {
	d := json.NewDecoder(bytes.NewReader(raw))
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		if text, ok := token.(string); ok && strings.Contains(text, "{") {
			return true
		}
	}
}

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

// isLocal says whether an upstream's address stays on this machine.
func isLocal(dial string) bool {
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return strings.Contains(dial, "{") // not known
	}
	return address.IsUnixNetwork() || address.IsFdNetwork() || tokensource.IsLoopback(address.Host)
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
		if labelsMatch(strings.ToLower(host), strings.ToLower(wantHost)) {
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

// isLabel says whether a text can be one label of a name.
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

func portOf(address caddy.NetworkAddress) string {
	return strconv.FormatUint(uint64(address.StartPort), 10)
}
