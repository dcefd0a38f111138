package injecttoken

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
)

// App holds the token sources of a configuration, from which the transport
// inject_token takes tokens.
type App struct {
	// The token sources, by name. A name begins with a lower-case letter or a
	// digit and goes on with such, `_` or `-`.
	Sources map[string]*Source `json:"sources,omitempty"`

	// Keys with which tokens are encrypted in Caddy's storage, each of 32 bytes in
	// base64: the first encrypts, all decrypt. They should be placeholders, such as
	// `{file./run/secrets/token-key}`; `caddy token-source keygen` makes one.
	// Default: tokens lie in the storage as Caddy's private keys do, readable for
	// who may read the storage.
	EncryptionKeys []string `json:"encryption_keys,omitempty"`

	ctx     caddy.Context
	log     *zap.Logger
	running map[string]*runningSource
	shared  *reverseproxy.HTTPTransport // of sources that have none of their own
	filled  map[string]*Source          // the sources with the words of their providers
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the sources and takes references to their refreshers. It
// sends nothing: `caddy validate` comes here, too.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.log = ctx.Logger()
	a.running = make(map[string]*runningSource)
	if m := encryptionKeys(a.EncryptionKeys).check(); m != nil {
		return m
	}
	for _, key := range a.EncryptionKeys {
		if warning := literalWarning(key); warning != "" {
			a.log.Warn(warning, zap.String("option", "encryption_key"))
		}
	}
	a.filled = make(map[string]*Source)
	for _, name := range slices.Sorted(maps.Keys(a.Sources)) {
		if err := a.check(name, a.Sources[name]); err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
	}
	if name, m := checkOthers(a.filled); m != nil {
		return fmt.Errorf("source %s: %w", name, m)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Sources)) {
		if err := a.provision(name, a.filled[name]); err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
	}
	return nil
}

// check finds what is wrong with a source by itself.
func (a *App) check(name string, s *Source) error {
	if m := checkSourceName(name); m != nil {
		return m
	}
	if s == nil {
		return errors.New("this is null; write an object")
	}
	filled, m := s.checked()
	if m != nil {
		return m
	}
	a.filled[name] = filled
	return nil
}

func (a *App) provision(name string, s *Source) error {
	a.warnOfGrant(name, s)
	for _, secret := range s.secrets() {
		if warning := literalWarning(secret.value); warning != "" {
			a.log.Warn(warning, zap.String("source", name), zap.String("option", secret.option))
		}
	}
	key, err := a.keyOf(name) // before a transport adds its defaults
	if err != nil {
		return err
	}
	transport, err := a.transport(s)
	if err := quietProxy(err); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	r, err := acquire(key, s)
	if err != nil {
		return err
	}
	a.running[name] = &runningSource{name: name, config: s, key: key, refresher: r, transport: transport}
	return nil
}

// warnOfGrant warns of a grant of which the provider's entry says nothing.
func (a *App) warnOfGrant(name string, s *Source) {
	p := a.Sources[name].Provider
	if p == nil {
		return
	}
	if entry, m := p.preset(); m == nil && !slices.Contains(entry.grants(), s.Grant) {
		a.log.Warn("the built-in entry of this provider does not know this grant; check that what it fills in fits",
			zap.String("source", name), zap.String("provider", p.Name), zap.String("grant", s.Grant), zap.Strings("grants", entry.grants()))
	}
}

// transport returns what sends the token requests of a source.
func (a *App) transport(s *Source) (*reverseproxy.HTTPTransport, error) {
	if s.Transport != nil {
		own := *s.Transport // what the user wrote stays as it was written
		if err := own.Provision(a.ctx); err != nil {
			return nil, err
		}
		followCertificate(&own, a.log)
		return &own, nil
	}
	if a.shared == nil {
		a.shared = new(reverseproxy.HTTPTransport)
		if err := a.shared.Provision(a.ctx); err != nil {
			return nil, err
		}
	}
	return a.shared, nil
}

// Start lets the refreshers work with this configuration. Tokens are obtained
// in the background: a provider that is down does not keep Caddy from
// starting.
func (a *App) Start() error {
	for name, running := range a.running { // before the first of them asks for another's token
		obtainer, err := running.config.obtainer(tokenTransport{running.transport}, otherSources(a.running))
		if err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
		running.source = obtainer
	}
	for name, running := range a.running {
		s, obtainer := running.config, running.source
		running.store = &store{storage: a.ctx.Storage(), name: name, source: obtainer, keys: a.EncryptionKeys}
		running.log = a.log.Named(name).With(zap.String("provider", s.provider()))
		running.detach = running.refresher.Attach(&refresher.Environment{
			Source:  obtainer,
			Store:   running.store,
			Log:     running.log,
			Command: authorizeCommand(name),
		})
		runningSources.add(running)
	}
	return nil
}

// Stop has the token requests end that are under way when the process ends: soon
// the storage is closed. In a reload nobody waits; there the storage of the new
// configuration is used. Nothing is released, for the requests that are being
// drained still need tokens.
func (a *App) Stop() error {
	if !caddy.Exiting() {
		return nil
	}
	var finishing sync.WaitGroup
	for _, running := range a.running {
		finishing.Go(func() { running.refresher.Finish(untilExit()) })
	}
	finishing.Wait()
	return nil
}

// Cleanup gives back exactly what Provision and Start have taken.
func (a *App) Cleanup() error {
	var errs []error
	for _, running := range a.running {
		if running.detach != nil {
			runningSources.remove(running)
			running.detach()
		}
		errs = append(errs, release(running.key))
		if running.transport != a.shared {
			errs = append(errs, running.transport.Cleanup())
		}
	}
	a.running = nil
	if a.shared != nil {
		errs = append(errs, a.shared.Cleanup())
	}
	return errors.Join(errs...)
}

// refresher returns the refresher of a source, or an error that names those
// that there are.
func (a *App) refresher(name string) (*refresher.Refresher, error) {
	running, ok := a.running[name]
	if !ok {
		return nil, unknownSource(name, a.Sources)
	}
	return running.refresher, nil
}

func unknownSource(name string, sources map[string]*Source) error {
	if len(sources) == 0 {
		return fmt.Errorf("no token source is named %q; there are none: write token_sources { source %s { … } } in the global options", name, name)
	}
	return fmt.Errorf("no token source is named %q; %s", name, didYouMean(name, slices.Collect(maps.Keys(sources))))
}
