package injecttoken

// parseProvider reads provider NAME { VALUE-NAME VALUE … }.
func parseProvider(r *optionReader, s *Source, args []string) error {
	if len(args) != 1 {
		return r.errf("write provider NAME, with a block for the values it needs; caddy token-source providers lists them")
	}
	s.Provider = new(Provider)
	if err := r.text(&s.Provider.Name, args); err != nil {
		return err
	}
	entry, m := s.Provider.preset()
	if m != nil {
		return r.place.WrapErr(m)
	}
	return r.inner(func(inner *optionReader) error { return readBlock(inner, entry.valueOptions(), s.Provider) })
}

// valueOptions are the values of the entry as options of a block.
func (p *preset) valueOptions() map[string]blockOption[Provider] {
	options := make(map[string]blockOption[Provider])
	for _, name := range p.valueNames() {
		options[name] = blockOption[Provider]{set: func(r *optionReader, into *Provider, args []string) error {
			var value string
			if err := r.text(&value, args); err != nil {
				return err
			}
			if into.Values == nil {
				into.Values = make(map[string]string)
			}
			into.Values[name] = value
			return nil
		}}
	}
	return options
}
