# check_config.rb FOLDER PROVIDER: what Vagrant's own configuration classes say of a Vagrantfile for a provider that
# cannot run here (`vagrant validate` looks at the provider in use only). Prints the complaints as JSON.
require "json"
require "tmpdir"
require "vagrant"

folder, provider = ARGV[0], ARGV[1].to_sym

# Usable everywhere, since nothing is asked of it.
class Nowhere < Vagrant.plugin("2", :provider)
  def self.usable?(_raise_error = false) = true
  def action(_name) = nil
  def ssh_info = nil
  def state = Vagrant::MachineState.new(:not_created, "", "")
end

known = Vagrant.plugin("2").manager.provider_configs.to_hash.keys
abort "Vagrant knows no settings of #{provider}, but of #{known}" unless known.include?(provider)
environment = Vagrant::Environment.new(cwd: folder, ui_class: Vagrant::UI::Silent)
settings = environment.vagrantfile.machine_config(:default, provider, nil, nil, false)[:config]
complaints = Dir.mktmpdir do |data|
  machine = Vagrant::Machine.new(
    :default, provider, Nowhere, settings.vm.get_provider_config(provider), {}, settings,
    Pathname.new(data), nil, environment, environment.vagrantfile
  )
  settings.validate(machine).reject { |_, found| found.empty? }
end
puts JSON.generate(complaints)
