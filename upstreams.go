package injecttoken

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// checkUpstreams looks at the reverse_proxy that this transport belongs to. A
// caller must not choose where the token goes, nor the network see it.
func (t *Transport) checkUpstreams(ctx caddy.Context) *mistake {
	var handler *reverseproxy.Handler
	for _, module := range ctx.Modules() { // the last one is ours; it may stand inside another's handle_response
		if h, ok := module.(*reverseproxy.Handler); ok {
			handler = h
		}
	}
	if handler == nil {
		return nil
	}
	if m := checkAllowHosts(handler, t.AllowHosts); m != nil {
		return m
	}
	if m := t.checkUpstreamSources(handler); m != nil {
		return m
	}
	if m := t.checkWait(handler); m != nil {
		return m
	}
	if checks := handler.HealthChecks; checks != nil && checks.Active != nil && (checks.Active.Port != 0 || checks.Active.Upstream != "") {
		t.healthPort = cmp.Or(checks.Active.Upstream, strconv.Itoa(checks.Active.Port))
	}
	if handler.LoadBalancing != nil {
		t.tryDuration = time.Duration(handler.LoadBalancing.TryDuration)
	}
	for _, address := range t.inClear(handler) {
		t.log.Warn("the token goes to this upstream without TLS; write https:// (RFC 6750, section 5.3)",
			zap.String("source", t.Source), zap.String("upstream", address))
	}
	return nil
}

// checkWait keeps reverse_proxy from taking the wait for a token for an
// upstream's slowness.
func (t *Transport) checkWait(handler *reverseproxy.Handler) *mistake {
	if handler.HealthChecks == nil || handler.HealthChecks.Passive == nil {
		return nil
	}
	latency := handler.HealthChecks.Passive.UnhealthyLatency
	if latency <= 0 || handler.HealthChecks.Passive.FailDuration <= 0 {
		return nil
	}
	if t.Wait == 0 {
		t.Wait = min(caddy.Duration(DefaultWait), latency/2)
	}
	if t.Wait >= latency {
		return wrong("wait", "this must be less than unhealthy_latency, or a slow provider has the upstreams taken for unhealthy")
	}
	return nil
}

// inClear returns the upstreams off this machine that are reached without TLS.
func (t *Transport) inClear(handler *reverseproxy.Handler) (addresses []string) {
	for _, upstream := range handler.Upstreams {
		address, err := caddy.ParseNetworkAddress(upstream.Dial)
		clear := !t.TLSEnabled() || err == nil && slices.Contains(t.TLS.ExceptPorts, portOf(address))
		if clear && !isLocal(upstream.Dial) {
			addresses = append(addresses, upstream.Dial)
		}
	}
	if handler.DynamicUpstreamsRaw != nil && !t.TLSEnabled() {
		addresses = append(addresses, "dynamic")
	}
	return addresses
}

// checkAllowHosts wants allow_hosts where the address of an upstream is not
// known from the configuration.
func checkAllowHosts(handler *reverseproxy.Handler, allowed []string) *mistake {
	open := hasBraces(handler.DynamicUpstreamsRaw)
	if len(allowed) == 0 && len(dynamicUpstreams(handler.DynamicUpstreamsRaw)) > 0 {
		return missingAllowHosts()
	}
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

// isLocal says whether an upstream's address stays on this machine.
func isLocal(dial string) bool {
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return strings.Contains(dial, "{") // not known
	}
	return address.IsUnixNetwork() || address.IsFdNetwork() || tokensource.IsLoopback(address.Host)
}

func portOf(address caddy.NetworkAddress) string {
	return strconv.FormatUint(uint64(address.StartPort), 10)
}
